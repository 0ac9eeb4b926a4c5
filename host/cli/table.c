/* table.c - numbers as people read them, and tables with aligned columns.
 *
 * Plain ASCII apart from names that came with other letters; no colors, so that a table reads the same in a log. The
 * program never calls setlocale(): the decimal point is a point and columns line up everywhere. Bytes are in powers of
 * 1000, as disks and networks are sold.
 */
#include <math.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include "cli.h"

/* ---- numbers --------------------------------------------------------------------------------------------------------
 */

static cli_text text_of(const char *format, ...) __attribute__((format(printf, 1, 2)));

static cli_text text_of(const char *format, ...) {
    cli_text out;
    va_list args;
    va_start(args, format);
    vsnprintf(out.text, sizeof out.text, format, args);
    va_end(args);
    return out;
}

cli_text cli_bytes(double bytes) {
    static const char *const units[] = {"B", "kB", "MB", "GB", "TB", "PB"};
    if (isnan(bytes)) return text_of("?");
    size_t unit = 0;
    /* 999.95 and more would print as 1000.0: the next unit takes over there. */
    while (unit < 5 && fabs(bytes) >= (unit ? 999.95 : 999.5)) {
        bytes /= 1000;
        unit++;
    }
    return text_of("%.*f %s", unit ? 1 : 0, bytes, units[unit]);
}

cli_text cli_count(double count) {
    if (isnan(count)) return text_of("?");
    if (fabs(count) >= 1e18) return text_of("%g", count);
    cli_text digits = text_of("%.0f", fabs(count)), out;
    size_t length = strlen(digits.text), used = 0;
    if (count < 0) out.text[used++] = '-';
    for (size_t i = 0; i < length; i++) {
        if (i && (length - i) % 3 == 0) out.text[used++] = ',';
        out.text[used++] = digits.text[i];
    }
    out.text[used] = '\0';
    return out;
}

cli_text cli_plural(double count, const char *singular) {
    return text_of("%s %s%s", cli_count(count).text, singular, count == 1 ? "" : "s");
}

cli_text cli_clock(double seconds) {
    if (!(seconds >= 0 && seconds < 1e12)) return text_of("?");
    long long whole = (long long)(seconds + 0.5);
    if (whole < 3600) return text_of("%lld:%02lld", whole / 60, whole % 60);
    return text_of("%lld:%02lld:%02lld", whole / 3600, whole / 60 % 60, whole % 60);
}

cli_text cli_duration(double seconds) {
    if (!(seconds >= 0 && seconds < 59.95)) return cli_clock(seconds);
    if (seconds < 0.0995) return text_of("%.*f ms", seconds < 0.00995 ? 1 : 0, seconds * 1e3);
    return text_of("%.*f s", seconds < 9.995 ? 2 : 1, seconds);
}

cli_text cli_fixed(double value, int decimals) {
    return isnan(value) ? text_of("?") : text_of("%.*f", decimals, value);
}

cli_text cli_significant(double value) {
    if (isnan(value)) return text_of("?");
    cli_text out = text_of("%#.4g", value);
    size_t length = strlen(out.text);
    if (out.text[length - 1] == '.') out.text[length - 1] = '\0'; /* "#" leaves "1234." */
    return out;
}

cli_text cli_number(double value) {
    return value == rint(value) && fabs(value) < 1e16 ? text_of("%.0f", value) : text_of("%.10g", value);
}

/* ---- tables ---------------------------------------------------------------------------------------------------------
 */

enum { MAX_COLUMNS = 16 };

struct cli_table {
    cli_column columns[MAX_COLUMNS];
    size_t column_count;
    char **cells; /* [row, column] */
    size_t cell_count, cell_room;
};

cli_table *cli_table_new(const cli_column *columns, size_t count) {
    cli_table *table = cli_resize(NULL, sizeof *table);
    memset(table, 0, sizeof *table);
    table->column_count = count < MAX_COLUMNS ? count : MAX_COLUMNS;
    memcpy(table->columns, columns, table->column_count * sizeof *columns);
    return table;
}

/* Takes over `text`. */
static void add_cell(cli_table *table, char *text) {
    if (table->cell_count == table->cell_room) {
        table->cell_room = table->cell_room ? 2 * table->cell_room : 64;
        table->cells = cli_resize(table->cells, table->cell_room * sizeof *table->cells);
    }
    table->cells[table->cell_count++] = cli_clean(text);
}

void cli_cell(cli_table *table, const char *format, ...) {
    va_list args;
    va_start(args, format);
    char *text = NULL;
    if (vasprintf(&text, format, args) < 0) text = cli_copy("");
    va_end(args);
    add_cell(table, text);
}

void cli_cell_text(cli_table *table, const json_t *object, const char *key) {
    const char *text = cli_string(object, key);
    cli_cell(table, "%s", text ? text : "");
}

/* Number of a field through one of the formats above; an absent one gives an empty cell. */
static void cell_number(cli_table *table, const json_t *object, const char *key, cli_text (*format)(double)) {
    double value = cli_real(object, key);
    cli_cell(table, "%s", isnan(value) ? "" : format(value).text);
}

void cli_cell_count(cli_table *table, const json_t *object, const char *key) {
    cell_number(table, object, key, cli_count);
}

void cli_cell_bytes(cli_table *table, const json_t *object, const char *key) {
    cell_number(table, object, key, cli_bytes);
}

void cli_cell_significant(cli_table *table, const json_t *object, const char *key) {
    cell_number(table, object, key, cli_significant);
}

void cli_cell_fixed(cli_table *table, const json_t *object, const char *key, int decimals) {
    double value = cli_real(object, key);
    if (isnan(value))
        cli_cell(table, "%s", "");
    else
        cli_cell(table, "%.*f", decimals, value);
}

/* Columns a text takes on the terminal: its code points (names are not expected in double-width scripts). */
static size_t display_width(const char *text) {
    size_t width = 0;
    for (; *text; text++) width += ((unsigned char)*text & 0xc0) != 0x80;
    return width;
}

static void print_row(const cli_table *table, char *const *cells, const size_t *widths, FILE *out) {
    size_t owed = 0; /* blanks that wait for more text, so that no line ends in blanks */
    for (size_t c = 0; c < table->column_count; c++) {
        if (widths[c] == 0) continue;
        const char *text = cells ? cells[c] : table->columns[c].title;
        if (cells && !*text && table->columns[c].title) text = "-";
        size_t pad = widths[c] - display_width(text);
        size_t before = table->columns[c].align == 'r' ? pad : 0;
        if (!*text) {
            owed += pad + 2;
            continue;
        }
        fprintf(out, "%*s%s", (int)(owed + before), "", text);
        owed = pad - before + 2;
    }
    fputc('\n', out);
}

int cli_table_print(cli_table *table, const char *title, FILE *out) {
    size_t rows = table->cell_count / table->column_count, widths[MAX_COLUMNS] = {0};
    int titled = 0, filled = 0;
    for (size_t c = 0; c < table->column_count; c++) {
        for (size_t r = 0; r < rows; r++) {
            size_t width = display_width(table->cells[r * table->column_count + c]);
            if (width > widths[c]) widths[c] = width;
        }
        size_t width = table->columns[c].title ? display_width(table->columns[c].title) : 0;
        if (widths[c] && width > widths[c]) widths[c] = width;
        titled = titled || table->columns[c].title;
        filled = filled || widths[c];
    }
    if (filled && title) fprintf(out, "%s\n", title);
    if (filled && titled) print_row(table, NULL, widths, out);
    for (size_t r = 0; filled && r < rows; r++) print_row(table, table->cells + r * table->column_count, widths, out);
    for (size_t i = 0; i < table->cell_count; i++) free(table->cells[i]);
    free(table->cells);
    free(table);
    return filled;
}

cli_table *cli_facts_new(void) {
    static const cli_column columns[] = {{NULL, 'l'}, {NULL, 'l'}};
    return cli_table_new(columns, 2);
}

void cli_fact(cli_table *facts, const char *label, const char *format, ...) {
    va_list args;
    va_start(args, format);
    char *text = NULL;
    if (vasprintf(&text, format, args) < 0) text = cli_copy("");
    va_end(args);
    add_cell(facts, cli_copy(label));
    add_cell(facts, text);
}
