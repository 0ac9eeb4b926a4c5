/* report_html.c - numbers, tables and the style sheet of the report's page.
 *
 * The page is one file that asks nothing of the network and runs no script, which its own security policy says to the
 * browser. All text goes through flrq_chart_text().
 */
#include "pipeline/report_page.h"

#include <math.h>
#include <string.h>

#include "pipeline/chart.h"

double report_real(const json_t *object, const char *key) {
    const json_t *value = json_object_get(object, key);
    return json_is_number(value) ? json_number_value(value) : NAN;
}

const char *report_text(const json_t *object, const char *key) {
    return json_string_value(json_object_get(object, key));
}

/* ---- numbers ---------------------------------------------------------------------------------------------------- */

/* Digits with a comma after every three. */
static void format_count(report_number *n, double value) {
    char digits[32];
    if (fabs(value) >= 1e15) {
        snprintf(n->text, sizeof n->text, "%.4g", value);
        return;
    }
    snprintf(digits, sizeof digits, "%.0f", value);
    size_t at = 0, length = strlen(digits);
    for (size_t i = 0; i < length; i++) {
        n->text[at++] = digits[i];
        if (digits[i] != '-' && i + 1 < length && (length - i - 1) % 3 == 0) n->text[at++] = ',';
    }
    n->text[at] = '\0';
}

static void format_large(report_number *n, double value) {
    if (fabs(value) < 1e6)
        format_count(n, value);
    else
        snprintf(n->text, sizeof n->text, "%.3g %s", value / (fabs(value) < 999.95e6 ? 1e6 : 1e9),
                 fabs(value) < 999.95e6 ? "million" : "billion");
}

static void format_bytes(report_number *n, double value) {
    static const char *const units[] = {"B", "kB", "MB", "GB", "TB", "PB"};
    size_t unit = 0;
    for (; fabs(value) >= 999.5 && unit < 5; unit++) value /= 1000;
    snprintf(n->text, sizeof n->text, unit && fabs(value) < 99.95 ? "%.1f %s" : "%.0f %s", value, units[unit]);
}

static void format_seconds(report_number *n, double value) {
    double whole = rint(value);
    if (fabs(value) < 0.00995)
        snprintf(n->text, sizeof n->text, "%.2g ms", 1000 * value);
    else if (fabs(value) < 9.995)
        snprintf(n->text, sizeof n->text, "%.2f s", value);
    else if (fabs(value) < 99.95)
        snprintf(n->text, sizeof n->text, "%.1f s", value);
    else if (value < 3600 || value > 1e12)
        snprintf(n->text, sizeof n->text, "%.0f min %02.0f s", floor(whole / 60), fmod(whole, 60));
    else
        snprintf(n->text, sizeof n->text, "%.0f h %02.0f min", floor(whole / 3600), floor(fmod(whole, 3600) / 60));
}

report_number report_format(report_form form, double value) {
    report_number n;
    if (!isfinite(value) || fabs(value) > 1e18) {
        snprintf(n.text, sizeof n.text, "\xe2\x80\x93");
        return n;
    }
    switch (form) {
    case REPORT_COUNT:
        format_count(&n, value);
        break;
    case REPORT_LARGE:
        format_large(&n, value);
        break;
    case REPORT_FIXED1:
        snprintf(n.text, sizeof n.text, "%.1f", value);
        break;
    case REPORT_FIXED4:
        snprintf(n.text, sizeof n.text, "%.4f", value);
        break;
    case REPORT_DIGITS:
        snprintf(n.text, sizeof n.text, value == 0 || fabs(value) >= 999.95 ? "%.4g" : "%#.4g", value);
        break;
    case REPORT_SHORT:
        snprintf(n.text, sizeof n.text, "%.3g", value);
        break;
    case REPORT_PERCENT:
        snprintf(n.text, sizeof n.text, "%.1f %%", 100 * value);
        break;
    case REPORT_CHANGE:
        snprintf(n.text, sizeof n.text, "%s%.1f %%", value < 0 ? "\xe2\x88\x92" : "+", 100 * fabs(value));
        break;
    case REPORT_BYTES:
        format_bytes(&n, value);
        break;
    case REPORT_SECONDS:
        format_seconds(&n, value);
        break;
    }
    return n;
}

void report_data(FILE *out, report_form form, double value) {
    fprintf(out, "<data value=\"%.17g\">%s</data>", value, report_format(form, value).text);
}

/* ---- tables ----------------------------------------------------------------------------------------------------- */

void report_table(FILE *out, const char *const *columns, size_t count) {
    fputs("<div class=\"scroll\"><table>\n<thead><tr>", out);
    for (size_t i = 0; i < count; i++) {
        bool text = *columns[i] == '<';
        fputs(text ? "<th class=\"t\" scope=\"col\">" : "<th scope=\"col\">", out);
        flrq_chart_text(out, columns[i] + text);
        fputs("</th>", out);
    }
    fputs("</tr></thead>\n<tbody>", out);
}

void report_row(FILE *out) {
    fputs("\n<tr>", out); /* HTML closes rows by itself */
}

void report_cell(FILE *out, report_form form, double value) {
    fprintf(out, "<td>%s</td>", report_format(form, value).text);
}

void report_cell_text(FILE *out, const char *text) {
    fputs("<td class=\"t\">", out);
    flrq_chart_text(out, text);
    fputs("</td>", out);
}

void report_cell_shape(FILE *out, const json_t *matrix) {
    fprintf(out, "<td>%s \xc3\x97 %s</td>", report_format(REPORT_COUNT, report_real(matrix, "rows")).text,
            report_format(REPORT_COUNT, report_real(matrix, "cols")).text);
}

void report_table_end(FILE *out) {
    fputs("\n</tbody></table></div>\n", out);
}

void report_fold(FILE *out, const char *title) {
    fputs("<details><summary>", out);
    flrq_chart_text(out, title);
    fputs("</summary>\n", out);
}

void report_fold_end(FILE *out) {
    fputs("</details>\n", out);
}

/* ---- style ------------------------------------------------------------------------------------------------------ */

static const char style[] =
    ":root{--ink:#1c2024;--soft:#5a636c;--line:#dde2e7;--tint:#f5f7f9;color-scheme:light}\n"
    "*{box-sizing:border-box}\n"
    "html{font:16px/1.55 system-ui,-apple-system,\"Segoe UI\",Roboto,Helvetica,Arial,sans-serif;color:var(--ink);"
    "background:#fff;-webkit-text-size-adjust:100%}\n"
    "body{max-width:62rem;margin:0 auto;padding:2.5rem 1.25rem 4rem}\n"
    "h1{font-size:1.9rem;line-height:1.2;letter-spacing:-.01em;margin:0;overflow-wrap:anywhere}\n"
    "h2{font-size:1.3rem;line-height:1.3;margin:3rem 0 .6rem;padding-top:1.1rem;border-top:1px solid var(--line)}\n"
    "p{margin:.4rem 0 1rem;max-width:46rem}\n"
    "a{color:#0a5a91;text-decoration:none}a:hover,a:focus{text-decoration:underline}\n"
    ".soft{color:var(--soft)}.sub{color:var(--soft);margin:.35rem 0 0;max-width:none;overflow-wrap:anywhere}\n"
    "nav{display:flex;flex-wrap:wrap;gap:.2rem 1.2rem;margin:1.1rem 0 1.4rem;font-size:.92rem}\n"
    ".tiles{display:grid;grid-template-columns:repeat(auto-fit,minmax(10.5rem,1fr));gap:1px;margin:0 0 1.2rem;"
    "border:1px solid var(--line);border-radius:8px;overflow:hidden}\n"
    ".tiles div{box-shadow:0 0 0 1px var(--line);padding:.85rem 1rem .95rem}\n"
    ".tiles dt{font-size:.82rem;color:var(--soft)}.tiles dd{margin:0;font-size:.82rem;color:var(--soft)}\n"
    ".tiles "
    ".n{display:block;color:var(--ink);font-size:1.4rem;line-height:1.45;font-weight:600;letter-spacing:-.01em}\n"
    ".u{display:inline-block;max-width:100%}\n"
    "data{font-variant-numeric:tabular-nums}\n"
    "pre{margin:.3rem 0 0;padding:.7rem .9rem;background:var(--tint);border:1px solid var(--line);border-radius:6px;"
    "white-space:pre-wrap;overflow-wrap:anywhere;"
    "font:.84rem/1.55 ui-monospace,SFMono-Regular,Menlo,Consolas,\"DejaVu Sans Mono\",monospace}\n"
    "figure{margin:1rem 0 .5rem}.wide{margin-left:-.9rem}figure "
    "svg{display:block;width:100%;max-width:54rem!important}\n"
    ".panels{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(100%,19rem),1fr));gap:.5rem 1rem;"
    "margin:1rem 0 .5rem -.7rem}\n"
    ".panels figure{margin:0}\n"
    ".scroll{overflow-x:auto;margin:.5rem 0}\n"
    "table{border-collapse:collapse;font-size:.85rem;line-height:1.4;font-variant-numeric:tabular-nums}\n"
    "th,td{padding:.28rem .75rem;text-align:right;white-space:nowrap;border-bottom:1px solid var(--line);"
    "vertical-align:top}\n"
    "th{font-weight:600}thead th{color:var(--soft);vertical-align:bottom}\n"
    "th:first-child,td:first-child{padding-left:0}\n"
    ".t{text-align:left}\n"
    ".facts td,.facts th{white-space:normal;text-align:left;overflow-wrap:anywhere}\n"
    ".facts th{color:var(--soft);font-weight:400;white-space:nowrap}\n"
    ".facts ul{margin:0;padding-left:1.1rem}\n"
    "details{margin:.4rem 0 1rem}summary{cursor:pointer;color:#0a5a91;font-size:.92rem}\n"
    "footer{margin-top:3rem;padding-top:1rem;border-top:1px solid var(--line);font-size:.85rem;color:var(--soft)}\n"
    "@media(max-width:40rem){body{padding-top:1.5rem}h1{font-size:1.55rem}.wide{overflow-x:auto}"
    ".wide svg{width:32rem;max-width:none!important}.tiles{grid-template-columns:1fr 1fr}}\n"
    "@media print{html{font-size:11px}body{max-width:none;padding:0}nav{display:none}h2{break-after:avoid}"
    "figure,.tiles div,tr,pre{break-inside:avoid}thead{display:table-header-group}.scroll{overflow:visible}}\n";

void report_head(FILE *out, const char *title) {
    fputs("<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n"
          "<meta name=\"viewport\" content=\"width=device-width,initial-scale=1\">\n"
          "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">\n"
          "<title>",
          out);
    flrq_chart_text(out, title);
    fprintf(out, "</title>\n<style>\n%s</style>\n</head>\n<body>\n", style);
}
