import edu.cmu.meteor.scorer.MeteorConfiguration;
import edu.cmu.meteor.scorer.MeteorScorer;
import edu.cmu.meteor.scorer.MeteorStats;
import edu.cmu.meteor.util.Constants;
import edu.stanford.nlp.process.PTBTokenizer;
import java.io.BufferedReader;
import java.io.BufferedWriter;
import java.io.ByteArrayInputStream;
import java.io.ByteArrayOutputStream;
import java.io.IOException;
import java.io.InputStream;
import java.io.InputStreamReader;
import java.io.OutputStreamWriter;
import java.io.PrintStream;
import java.util.ArrayList;
import java.util.List;

/**
 * Serves the two reference tools of coco-caption from one process, over stdin and stdout, in UTF-8 lines.
 *
 * <p>A request is a line "VERB n" and n lines. TOKENIZE answers what the PTB tokenizer's own main prints for them
 * under -preserveLines -lowerCase. METEOR takes "reference ||| reference ||| prediction" lines and answers for each
 * its score and its statistics, then the score of their sum, as -stdio -l en -norm does. An answer starts with the
 * number of its lines, and each of its lines with "=": what the virtual machine itself prints has none. The process
 * ends when stdin does, also amid a request.
 */
public final class CaptionScorer {
    private static MeteorScorer meteor;

    public static void main(String[] arguments) throws IOException {
        InputStream realIn = System.in;
        BufferedReader in = new BufferedReader(new InputStreamReader(realIn, "UTF-8"));
        BufferedWriter out = new BufferedWriter(new OutputStreamWriter(System.out, "UTF-8"));
        for (String line = in.readLine(); line != null; line = in.readLine()) {
            int space = line.indexOf(' ');
            String verb = line.substring(0, space);
            int count = Integer.parseInt(line.substring(space + 1));
            if (verb.equals("TOKENIZE")) {
                tokenize(in, out, count);
            } else {
                score(in, out, count);
            }
            out.flush();
        }
    }

    private static void write(BufferedWriter out, String line) throws IOException {
        out.write('=');
        out.write(line);
        out.write('\n');
    }

    /** The tokenizer's main reads System.in and writes System.out, so for its time these are ours. */
    private static void tokenize(BufferedReader in, BufferedWriter out, int count) throws IOException {
        List<String> lines = new ArrayList<String>(count);
        for (int i = 0; i < count; i++) {
            String line = in.readLine();
            if (line == null) {
                return;
            }
            lines.add(line);
        }
        ByteArrayOutputStream tokens = new ByteArrayOutputStream();
        InputStream realIn = System.in;
        PrintStream realOut = System.out;
        System.setIn(new ByteArrayInputStream(String.join("\n", lines).getBytes("UTF-8")));
        System.setOut(new PrintStream(tokens, true, "UTF-8"));
        try {
            PTBTokenizer.main(new String[] {"-preserveLines", "-lowerCase"});
        } finally {
            System.setIn(realIn);
            System.setOut(realOut);
        }
        String[] answer = tokens.toString("UTF-8").split("\n", -1);
        write(out, Integer.toString(answer.length));
        for (String line : answer) {
            write(out, line);
        }
    }

    /** Reads and answers line by line: who waits sees it go on, and no long request is held in memory. */
    private static void score(BufferedReader in, BufferedWriter out, int count) throws IOException {
        write(out, Integer.toString(count + 1));
        MeteorStats sum = new MeteorStats();
        for (int i = 0; i < count; i++) {
            String line = in.readLine();
            if (line == null) {
                return;
            }
            String[] parts = line.split("\\|\\|\\|");
            ArrayList<String> references = new ArrayList<String>();
            for (int part = 0; part < parts.length - 1; part++) {
                references.add(parts[part].trim());
            }
            String found = meteor().getMeteorStats(parts[parts.length - 1].trim(), references).toString();
            MeteorStats stats = new MeteorStats(found.trim());
            meteor().computeMetrics(stats);
            write(out, Double.toString(stats.score) + " " + found);
            sum.addStats(stats);
        }
        meteor().computeMetrics(sum);
        write(out, Double.toString(sum.score));
    }

    /** METEOR's tables take seconds to load, so they wait until they are asked for. */
    private static MeteorScorer meteor() {
        if (meteor == null) {
            MeteorConfiguration configuration = new MeteorConfiguration();
            configuration.setLanguage("en");
            configuration.setNormalization(Constants.NORMALIZE_KEEP_PUNCT);
            meteor = new MeteorScorer(configuration);
        }
        return meteor;
    }
}
