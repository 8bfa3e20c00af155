/* Trade lines of single fills to rows of COPY's text format, with what the ledger of ids wants to know of them. */
#define PY_SSIZE_T_CLEAN
#define Py_LIMITED_API 0x030B0000
#include <Python.h>

#include "../../core/fill.h"
#include "../../core/symbols.h"
#include "../../core/text.h"

/* What one row can come to at most: its parts are bounded. */
#define ROW_MAX 512
#define DAY_MS INT64_C(86400000)

/* Fills of one symbol and one UTC day whose ids follow on each other. */
typedef struct {
    int64_t symbol, first, last, low, high, step, day;
    Sum checksum;
    Text rows;
} Run;

typedef struct {
    Run *runs;
    int64_t *newest; /* of each symbol the number of its last run, -1 where it has none */
    size_t used, room, symbols;
} Runs;

/* "YYYY-MM-DD HH:MM:SS.mmm+00", by Howard Hinnant's civil_from_days. */
static void put_time(Text *text, int64_t ms) {
    int64_t shifted = ms / DAY_MS + 719468, era = shifted / 146097, of_era = shifted - era * 146097;
    int64_t year = (of_era - of_era / 1460 + of_era / 36524 - of_era / 146096) / 365;
    int64_t of_year = of_era - (365 * year + year / 4 - year / 100), month = (5 * of_year + 2) / 153;
    int64_t day = of_year - (153 * month + 2) / 5 + 1;
    month = month < 10 ? month + 3 : month - 9;
    year += era * 400 + (month <= 2);
    const int64_t parts[] = {year, month, day, ms / 3600000 % 24, ms / 60000 % 60, ms / 1000 % 60, ms % 1000};
    const int widths[] = {4, 2, 2, 2, 2, 2, 3};
    const char behind[] = "-- ::.+";
    char *at = text->start + text->used;
    for (int i = 0; i < 7; i++) {
        int64_t left = parts[i];
        for (int k = widths[i] - 1; k >= 0; k--, left /= 10) at[k] = (char)('0' + (int)(left % 10));
        at += widths[i];
        *at++ = behind[i];
    }
    *at++ = '0';
    *at++ = '0';
    text->used = (size_t)(at - text->start);
}

static void put_row(Text *text, const Fill *fill) {
    PUT_SPAN(text, fill->exchange);
    PUT(text, "\t");
    PUT_SPAN(text, fill->symbol);
    PUT(text, "\t");
    PUT_SPAN(text, fill->id_text);
    if (fill->buy) PUT(text, "\t1\tbuy\t");
    else PUT(text, "\t1\tsell\t");
    PUT_SPAN(text, fill->price);
    PUT(text, "\t");
    PUT_SPAN(text, fill->size);
    PUT(text, "\t");
    put_time(text, fill->timestamp);
    PUT(text, "\t");
    if (fill->received) put_time(text, fill->received);
    else PUT(text, "\\N");
    PUT(text, "\t");
    if (fill->source.size) PUT_SPAN(text, fill->source);
    else PUT(text, "\\N");
    PUT(text, "\t");
    PUT_SPAN(text, fill->origin);
    PUT(text, "\n");
}

/* Add a fill's part of the checksum, as storage/ledger/checksum.py says it: id * (price + 7919 size + time), the time
   negative where the taker sold. 0 where 128 bits do not hold it. */
static int add_checksum(Sum *sum, const Fill *fill) {
    Number price, size;
    Sum one = {fill->buy ? fill->timestamp : -fill->timestamp, 0};
    Wide product;
    return number_of(fill->price, &price) && number_of(fill->size, &size) && add(&one, price.mantissa, price.places) &&
           add(&one, (Wide)size.mantissa * 7919, size.places) &&
           !__builtin_mul_overflow(one.mantissa, (Wide)fill->id, &product) && add(sum, product, one.places);
}

/* The run that a fill goes into: its symbol's last one, or a new one. NULL without memory. */
static Run *run_for(Runs *runs, Symbols *symbols, const Fill *fill) {
    int64_t symbol = symbols_find(symbols, fill->exchange, fill->symbol);
    if (symbol < 0) {
        symbol = symbols_add(symbols, fill->exchange, fill->symbol);
        if (symbol < 0) return NULL;
        if (runs->symbols < symbols->room) {
            int64_t *newest = PyMem_Realloc(runs->newest, symbols->room * sizeof(int64_t));
            if (newest == NULL) return NULL;
            runs->newest = newest;
            runs->symbols = symbols->room;
        }
        runs->newest[symbol] = -1;
    }
    if (runs->newest[symbol] >= 0) {
        Run *run = &runs->runs[runs->newest[symbol]];
        if (fill->id == run->last + 1 && fill->timestamp / DAY_MS == run->day) return run;
    }
    if (runs->used == runs->room) {
        size_t room = runs->room ? runs->room * 2 : 16;
        Run *more = PyMem_Realloc(runs->runs, room * sizeof(Run));
        if (more == NULL) return NULL;
        runs->runs = more;
        runs->room = room;
    }
    runs->newest[symbol] = (int64_t)runs->used;
    Run *run = &runs->runs[runs->used++];
    memset(run, 0, sizeof *run);
    run->symbol = symbol;
    run->first = fill->id;
    run->low = run->high = fill->timestamp;
    run->day = fill->timestamp / DAY_MS;
    return run;
}

static int add_fill(Runs *runs, Symbols *symbols, const Fill *fill) {
    Run *run = run_for(runs, symbols, fill);
    if (run == NULL || !reserve(&run->rows, ROW_MAX)) {
        PyErr_NoMemory();
        return 0;
    }
    run->last = fill->id;
    if (fill->timestamp > run->high) run->high = fill->timestamp;
    else if (run->high - fill->timestamp > run->step) run->step = run->high - fill->timestamp;
    if (fill->timestamp < run->low) run->low = fill->timestamp;
    if (!add_checksum(&run->checksum, fill)) {
        PyErr_SetString(PyExc_OverflowError, "a checksum of more than 128 bits");
        return 0;
    }
    put_row(&run->rows, fill);
    return 1;
}

static PyObject *shown(const Runs *runs, const Symbols *symbols) {
    PyObject *list = PyList_New(0);
    if (list == NULL) return NULL;
    for (size_t i = 0; i < runs->used; i++) {
        const Run *run = &runs->runs[i];
        const Symbol *symbol = &symbols->symbols[run->symbol];
        char text[64], *sum;
        Wide mantissa = run->checksum.mantissa;
        sum = digits(mantissa < 0 ? -mantissa : mantissa, run->checksum.places, text);
        if (mantissa < 0) *--sum = '-';
        PyObject *one = Py_BuildValue(
            "(s#s#LLLLLLsy#)", symbol->text, (Py_ssize_t)symbol->exchange, symbol->text + symbol->exchange + 1,
            (Py_ssize_t)(symbol->size - symbol->exchange - 1), (long long)run->first, (long long)run->last,
            (long long)run->low, (long long)run->high, (long long)run->step, (long long)run->day, sum, run->rows.start,
            (Py_ssize_t)run->rows.used);
        int failed = one == NULL || PyList_Append(list, one) < 0;
        Py_XDECREF(one);
        if (failed) {
            Py_DECREF(list);
            return NULL;
        }
    }
    return list;
}

static PyObject *rows(PyObject *self, PyObject *arg) {
    Py_buffer block;
    Runs runs = {NULL, NULL, 0, 0, 0};
    Symbols symbols = {NULL, NULL, 0, 0, 0, 0};
    PyObject *result = NULL;
    (void)self;
    if (PyObject_GetBuffer(arg, &block, PyBUF_SIMPLE) < 0) return NULL;
    const char *at = block.buf, *stop = at + block.len;
    int good = 1;
    while (good && at < stop) {
        Fill fill;
        const char *end = memchr(at, '\n', (size_t)(stop - at));
        if (end == NULL || !fill_of(at, end, &fill)) {
            PyErr_SetString(PyExc_ValueError, "a line that is no everyday fill");
            good = 0;
        } else {
            good = add_fill(&runs, &symbols, &fill);
            at = end + 1;
        }
    }
    if (good) result = shown(&runs, &symbols);
    for (size_t i = 0; i < runs.used; i++) PyMem_Free(runs.runs[i].rows.start);
    PyMem_Free(runs.runs);
    PyMem_Free(runs.newest);
    symbols_free(&symbols);
    PyBuffer_Release(&block);
    return result;
}

static PyObject *scan(PyObject *self, PyObject *args) {
    Py_buffer block;
    Py_ssize_t at, most, taken = 0;
    long long now;
    (void)self;
    if (!PyArg_ParseTuple(args, "y*nLn", &block, &at, &now, &most)) return NULL;
    if (at < 0 || at > block.len) {
        PyBuffer_Release(&block);
        PyErr_SetString(PyExc_ValueError, "an offset outside of the block");
        return NULL;
    }
    const char *start = block.buf;
    while (at < block.len && taken < most) {
        Fill fill;
        const char *end = memchr(start + at, '\n', (size_t)(block.len - at));
        if (end == NULL || !fill_of(start + at, end, &fill) || is_word(fill.origin, "trades")) break;
        if (!has_come(fill.timestamp, fill.received, now)) break;
        taken++;
        at = end + 1 - start;
    }
    PyBuffer_Release(&block);
    return Py_BuildValue("(nn)", at, taken);
}

PyDoc_STRVAR(scan_doc,
             "scan(block, at, now_ms, most) -> (next, taken)\n\n"
             "Count the everyday lines of fills, at most so many, from an offset on, up to the first that is none.");
PyDoc_STRVAR(rows_doc,
             "rows(block) -> list\n\n"
             "Turn lines that `scan` took into runs: fills of one symbol and UTC day whose ids follow on each other, in the\n"
             "order of their first lines. Each is (exchange, symbol, first id, last id, lowest and highest time, the most\n"
             "that time steps back (ms), day since 1970, checksum as text, rows as COPY wants them).\n\n"
             "Raises ValueError for another line, OverflowError where 128 bits do not hold a checksum.");

static PyMethodDef methods[] = {
    {"scan", scan, METH_VARARGS, scan_doc},
    {"rows", rows, METH_O, rows_doc},
    {NULL, NULL, 0, NULL},
};

static int fill_module(PyObject *module) { return PyModule_AddIntConstant(module, "KERNEL", KERNEL); }

static PyModuleDef_Slot slots[] = {{Py_mod_exec, (void *)fill_module}, {0, NULL}};

static struct PyModuleDef module = {
    PyModuleDef_HEAD_INIT, "_fill_rows", "Trade lines to rows.", 0, methods, slots, NULL, NULL, NULL,
};

PyMODINIT_FUNC PyInit__fill_rows(void);

PyMODINIT_FUNC PyInit__fill_rows(void) { return PyModuleDef_Init(&module); }
