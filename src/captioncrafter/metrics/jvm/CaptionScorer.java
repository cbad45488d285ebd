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
 * under -preserveLines -lowerCase. METEOR takes "reference ||| reference ||| prediction" lines and answers the
 * statistics of each, then the score of each, then the score of their sum, as -stdio -l en -norm does. Every answer
 * starts with the number of its lines. The process ends when stdin does.
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
            List<String> lines = new ArrayList<String>(count);
            for (int i = 0; i < count; i++) {
                lines.add(in.readLine());
            }
            answer(out, verb.equals("TOKENIZE") ? tokenize(lines) : score(lines));
        }
    }

    private static void answer(BufferedWriter out, List<String> lines) throws IOException {
        out.write(Integer.toString(lines.size()));
        out.write('\n');
        for (String line : lines) {
            out.write(line);
            out.write('\n');
        }
        out.flush();
    }

    /** The tokenizer's main reads System.in and writes System.out, so for its time these are ours. */
    private static List<String> tokenize(List<String> lines) throws IOException {
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
        List<String> result = new ArrayList<String>();
        for (String line : tokens.toString("UTF-8").split("\n", -1)) {
            result.add(line);
        }
        return result;
    }

    private static List<String> score(List<String> lines) {
        List<String> statistics = new ArrayList<String>();
        List<String> scores = new ArrayList<String>();
        MeteorStats sum = new MeteorStats();
        for (String line : lines) {
            String[] parts = line.split("\\|\\|\\|");
            ArrayList<String> references = new ArrayList<String>();
            for (int i = 0; i < parts.length - 1; i++) {
                references.add(parts[i].trim());
            }
            String found = meteor().getMeteorStats(parts[parts.length - 1].trim(), references).toString();
            MeteorStats stats = new MeteorStats(found.trim());
            meteor().computeMetrics(stats);
            statistics.add(found);
            scores.add(Double.toString(stats.score));
            sum.addStats(stats);
        }
        meteor().computeMetrics(sum);
        statistics.addAll(scores);
        statistics.add(Double.toString(sum.score));
        return statistics;
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
