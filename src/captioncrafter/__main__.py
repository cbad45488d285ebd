"""`python -m captioncrafter` is the command line too."""

from captioncrafter.cli import main

if __name__ == "__main__":
    main()
