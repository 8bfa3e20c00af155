/* The kernels under libFuzzer: each line of an input lies in memory of its own, so that a read beyond it is seen.
   clang -g -O1 -fsanitize=fuzzer,address,undefined -fno-sanitize-recover=all -DPUSHES (or RUNS, CELLS, ROWS) \
       -I/usr/include/python3.11 scripts/harness/fuzz_kernels.c -lpython3.11 -o fuzz && ./fuzz -max_len=2000 CORPUS
   with lines of OKX or of ours as the corpus (Debian: clang, libclang-rt-14-dev, libpython3.11-dev). Nothing of Python
   runs: what the kernels need of it stands here. */
#ifdef PUSHES
#include "../../okxcli/exchanges/okx/normalize/pushes.c"
#elif defined RUNS
#include "../../okxcli/core/candles/runs.c"
#elif defined CELLS
#include "../../okxcli/exchanges/okx/bulk_files/rows.c"
#else
#include "../../okxcli/storage/rows/fill_rows.c"
#endif
#include <stdlib.h>

PyObject *PyExc_OverflowError;
void *PyMem_Realloc(void *old, size_t size) { return realloc(old, size); }
void *PyMem_Calloc(size_t count, size_t size) { return calloc(count, size); }
void PyMem_Free(void *old) { free(old); }
void PyErr_SetString(PyObject *kind, const char *text) {
    (void)kind;
    (void)text;
}

#ifdef PUSHES
static void line(const char *start, const char *end) {
    Text text = {NULL, 0, 0};
    push(start, end, INT64_C(2000000000000), &text);
    free(text.start);
}
static void begin(void) {}
static void finish(void) {}
#elif defined RUNS
static Folder folder;
static void begin(void) { memset(&folder, 0, sizeof folder); }
static void line(const char *start, const char *end) {
    Fill fill;
    if (!fill_of(start, end, &fill)) return;
    int64_t at = symbols_find(&folder.symbols, fill.exchange, fill.symbol);
    if (at < 0) {
        at = symbols_add(&folder.symbols, fill.exchange, fill.symbol);
        if (!entries_grow(&folder)) abort();
        memset(&folder.entries[at], 0, sizeof(Entry));
    }
    Entry *entry = &folder.entries[at];
    entry->next = fill.id - fill.count + 1;
    entry->until = MAX_TIMESTAMP;
    fold(&folder, &fill, INT64_C(2000000000000));
    if (entry->count) {
        char text[64];
        if (strlen(digits(entry->quote.mantissa, entry->quote.places, text)) > 62) abort();
        digits(entry->volume.mantissa, entry->volume.places, text);
    }
}
static void finish(void) {
    symbols_free(&folder.symbols);
    free(folder.entries);
}
#elif defined CELLS
/* The columns that a file may have: the input says which by its first byte. */
static const char *const layouts[] = {"sidpzt", "sidpztf", "idzpt", "idzpt--", "-tzpdis", "fdsztpi", "t-f-izpds"};
static Extents extents;
static void begin(void) { memset(&extents, 0, sizeof extents); }
static void line(const char *start, const char *end) {
    Cells cells = {0};
    Columns columns;
    Text text = {NULL, 0, 0};
    if (start == end) return;
    const char *kinds = layouts[(unsigned char)*start % 7];
    int named = strchr(kinds, 's') != NULL;
    if (!columns_of(kinds, (Py_ssize_t)strlen(kinds), "X-Y", named ? 0 : 3, &columns)) abort();
    if (!cells_of(start + 1, end, &columns, &cells)) return;
    if (cells.price.mantissa <= 0 || cells.size.mantissa <= 0 || cells.id <= 0) abort();
    if (!add_row(&extents, &cells) || !reserve(&text, ROW_MAX)) abort();
    write_row(&text, &cells, cells.symbol, cells.side, strchr(kinds, 'f') != NULL);
    if (text.used > ROW_MAX) abort();
    free(text.start);
}
static void finish(void) {
    free(extents.some);
    free(extents.newest);
    symbols_free(&extents.symbols);
}
#else
static Runs runs;
static Symbols symbols;
static void begin(void) {
    memset(&runs, 0, sizeof runs);
    memset(&symbols, 0, sizeof symbols);
}
static void line(const char *start, const char *end) {
    Fill fill;
    if (fill_of(start, end, &fill) && fill.count == 1) add_fill(&runs, &symbols, &fill);
}
static void finish(void) {
    for (size_t i = 0; i < runs.used; i++) {
        char text[64];
        Wide sum = runs.runs[i].checksum.mantissa;
        digits(sum < 0 ? -sum : sum, runs.runs[i].checksum.places, text);
        free(runs.runs[i].rows.start);
    }
    free(runs.runs);
    free(runs.newest);
    symbols_free(&symbols);
}
#endif

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    const uint8_t *at = data, *stop = data + size;
    begin();
    while (at < stop) {
        const uint8_t *end = memchr(at, '\n', (size_t)(stop - at));
        if (end == NULL) end = stop;
        size_t length = (size_t)(end - at);
        char *copy = malloc(length);
        if (length) memcpy(copy, at, length);
        line(copy, copy + length);
        free(copy);
        at = end + 1;
    }
    finish();
    return 0;
}
