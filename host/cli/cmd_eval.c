/* cmd_eval.c - shows the result of `flrq eval`.
 */
#include <math.h>

#include "cli.h"

static void show_against(cli_table *facts, const json_t *against, double perplexity) {
    const char *model = cli_string(against, "model");
    double reference = cli_real(against, "perplexity"), mean = cli_real(against, "kl_mean"),
           max = cli_real(against, "kl_max"), top1 = cli_real(against, "top1_agreement");
    cli_fact(facts, "against", "%s", model ? model : "?");
    if (!isnan(reference))
        cli_fact(facts, "  perplexity", "%.4f (ratio %s)", reference, cli_fixed(perplexity / reference, 5).text);
    if (!isnan(mean)) cli_fact(facts, "  mean KL", "%s nats/token", cli_significant(mean).text);
    if (!isnan(max)) cli_fact(facts, "  max KL", "%s nats", cli_significant(max).text);
    if (!isnan(top1)) cli_fact(facts, "  same top-1", "%.2f %%", 100 * top1);
}

/* Which weights were measured. */
static const char *state(const json_t *result) {
    const json_t *quantized = json_object_get(result, "quantized"), *lowrank = json_object_get(result, "lowrank");
    if (!json_is_boolean(quantized)) return "";
    if (!json_is_true(quantized)) return " (not quantized)";
    return json_is_true(lowrank) ? " (quantized, with its low-rank part)" : " (quantized, without a low-rank part)";
}

void cli_eval_show(const json_t *result, FILE *out) {
    cli_table *facts = cli_facts_new();
    const char *model = cli_string(result, "model");
    double perplexity = cli_real(result, "perplexity"), nll = cli_real(result, "nll");
    double tokens = cli_real(result, "tokens"), scored = cli_real(result, "scored");
    double windows = cli_real(result, "windows"), context = cli_real(result, "context");
    double seconds = cli_real(result, "seconds");
    if (model) cli_fact(facts, "model", "%s%s", model, state(result));
    if (isnan(perplexity))
        cli_fact(facts, "perplexity", "not finite");
    else
        cli_fact(facts, "perplexity", "%.4f", perplexity);
    if (!isnan(nll)) cli_fact(facts, "nll", "%.6f nats/token", nll);
    if (!isnan(tokens)) cli_fact(facts, "tokens", "%s", cli_count(tokens).text);
    if (!isnan(scored)) cli_fact(facts, "scored", "%s", cli_count(scored).text);
    if (!isnan(windows) && !isnan(context))
        cli_fact(facts, "windows", "%s of %s tokens", cli_count(windows).text, cli_count(context).text);
    if (seconds > 0 && !isnan(tokens))
        cli_fact(facts, "time", "%s (%s tokens/s)", cli_duration(seconds).text, cli_count(tokens / seconds).text);
    const json_t *against = json_object_get(result, "against");
    if (json_is_object(against)) show_against(facts, against, perplexity);
    cli_table_print(facts, NULL, out);
}

void cli_eval_summary(const json_t *result, FILE *out) {
    double perplexity = cli_real(result, "perplexity");
    if (isnan(perplexity))
        fputs("perplexity not finite\n", out);
    else
        fprintf(out, "perplexity %.4f\n", perplexity);
}
