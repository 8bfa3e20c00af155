/* Blocks of a bulk file of trades: what ids and times stand there, and their rows as the pushes that OKX would have sent.
   The first row that is not of the everyday form ends the call: it is the Python road's. */
#include "../../../core/module.h"

#include "../../../core/cells.h"
#include "../../../core/symbols.h"
#include "../../../core/text.h"

/* What one row can come to at most: its parts are bounded, and so are the words around them. */
#define ROW_MAX 640

/* Fills of one symbol whose ids follow on each other, in the times low to high. */
typedef struct {
    int64_t first, last, low, high;
    uint32_t symbol;
} Stretch;

typedef struct {
    Stretch *some;
    uint32_t used, room;
    Symbols symbols;
    uint32_t *newest; /* of each symbol: its newest stretch */
    uint32_t known;
} Extents;

static const Span NOBODY = {"", 0};

static int add_row(Extents *extents, const Cells *cells) {
    int64_t symbol = symbols_find(&extents->symbols, NOBODY, cells->symbol);
    if (symbol >= 0) {
        Stretch *newest = &extents->some[extents->newest[symbol]];
        if (cells->id == newest->last + 1) {
            newest->last = cells->id;
            if (cells->timestamp < newest->low) newest->low = cells->timestamp;
            if (cells->timestamp > newest->high) newest->high = cells->timestamp;
            return 1;
        }
    } else {
        symbol = symbols_add(&extents->symbols, NOBODY, cells->symbol);
        if (symbol < 0) return 0;
        if (extents->known < extents->symbols.room) {
            uint32_t *newest = PyMem_Realloc(extents->newest, extents->symbols.room * sizeof(uint32_t));
            if (newest == NULL) return 0;
            extents->newest = newest;
            extents->known = extents->symbols.room;
        }
    }
    if (extents->used == extents->room) {
        uint32_t room = extents->room ? extents->room * 2 : 64;
        Stretch *some = PyMem_Realloc(extents->some, room * sizeof(Stretch));
        if (some == NULL) return 0;
        extents->some = some;
        extents->room = room;
    }
    extents->newest[symbol] = extents->used;
    extents->some[extents->used++] =
        (Stretch){cells->id, cells->id, cells->timestamp, cells->timestamp, (uint32_t)symbol};
    return 1;
}

static PyObject *stretches(const Extents *extents) {
    PyObject *list = PyList_New((Py_ssize_t)extents->used);
    for (uint32_t i = 0; list != NULL && i < extents->used; i++) {
        const Stretch *one = &extents->some[i];
        const Symbol *symbol = &extents->symbols.symbols[one->symbol];
        PyObject *item = Py_BuildValue(
            "(y#LLLL)", symbol->text + 1, (Py_ssize_t)symbol->size - 1, (long long)one->first, (long long)one->last,
            (long long)one->low, (long long)one->high);
        if (item == NULL || PyList_SetItem(list, (Py_ssize_t)i, item) < 0) {
            Py_DECREF(list);
            return NULL;
        }
    }
    return list;
}

static int is_sound(Py_ssize_t at, const Py_buffer *block, int known) {
    if (!in_block(at, block)) return 0;
    if (!known) PyErr_SetString(PyExc_ValueError, "columns that make no fill");
    return known;
}

PyDoc_STRVAR(scan_doc,
             "scan(block, at, columns, symbol) -> (next, stretches)\n\n"
             "Read the rows of a block from an offset on, up to the first that is not of the everyday form.\n"
             "A stretch is (symbol, first id, last id, lowest time, highest time) of rows of a symbol with consecutive ids,\n"
             "in the order of their first rows.");
static PyObject *scan(PyObject *self, PyObject *args) {
    Py_buffer block;
    Py_ssize_t at, count, size;
    const char *kinds, *symbol;
    Extents extents = {NULL, 0, 0, {NULL, NULL, 0, 0, 0, 0}, NULL, 0};
    Columns columns;
    Cells cells = {0};
    PyObject *result = NULL;
    (void)self;
    if (!PyArg_ParseTuple(args, "y*ny#y#", &block, &at, &kinds, &count, &symbol, &size)) return NULL;
    if (!is_sound(at, &block, columns_of(kinds, count, symbol, size, &columns))) goto done;
    const char *start = block.buf;
    while (at < block.len) {
        const char *end = memchr(start + at, '\n', (size_t)(block.len - at));
        if (end == NULL || !cells_of(start + at, end, &columns, &cells)) break;
        if (!add_row(&extents, &cells)) {
            PyErr_NoMemory();
            goto done;
        }
        at = end + 1 - start;
    }
    PyObject *found = stretches(&extents);
    if (found != NULL) result = Py_BuildValue("(nN)", at, found);
done:
    PyMem_Free(extents.some);
    PyMem_Free(extents.newest);
    symbols_free(&extents.symbols);
    PyBuffer_Release(&block);
    return result;
}

/* The like of `write_row` in normalize/pushes.c, which writes a line of ours: no word of one stands in the other. */
static void write_row(Text *text, const Cells *cells, Span channel, Span origin, int source) {
    PUT_AFTER(text, "{\"arg\":{\"channel\":\"", channel);
    PUT_AFTER(text, "\",\"instId\":\"", cells->symbol);
    PUT_AFTER(text, "\"},\"data\":[{\"instId\":\"", cells->symbol);
    PUT_AFTER(text, "\",\"tradeId\":\"", cells->id_text);
    PUT_AFTER(text, "\",\"px\":\"", cells->price_text);
    PUT_AFTER(text, "\",\"sz\":\"", cells->size_text);
    PUT_AFTER(text, "\",\"side\":\"", cells->side);
    PUT_AFTER(text, "\",\"ts\":\"", cells->time_text);
    if (source) {
        PUT(text, "\",\"source\":\"");
        PUT_SPAN(text, cells->source);
    }
    PUT_AFTER(text, "\"}],\"origin\":\"", origin);
    PUT(text, "\"}\n");
}

/* Names, a line each: the rows of others are passed over. */
static int names_of(Symbols *table, const char *names, Py_ssize_t size) {
    const char *end = names + size;
    while (names < end) {
        const char *stop = memchr(names, '\n', (size_t)(end - names));
        if (stop == NULL) stop = end;
        Span name = {names, (int)(stop - names)};
        if (stop - names <= SYMBOL_MAX && symbols_find(table, NOBODY, name) < 0 && symbols_add(table, NOBODY, name) < 0)
            return 0;
        names = stop + 1;
    }
    return 1;
}

PyDoc_STRVAR(pushes_doc,
             "pushes(block, at, columns, symbol, wanted, channel, origin) -> (lines, made, next)\n\n"
             "Turn the rows of a block from an offset on into raw lines, up to the first that is not of the everyday form.\n"
             "Those of symbols that are not `wanted` (joined by newlines) are passed over.");
static PyObject *pushes(PyObject *self, PyObject *args) {
    Py_buffer block;
    Py_ssize_t at, count, size, names, channel_size, origin_size, made = 0;
    const char *kinds, *symbol, *wanted;
    Span channel, origin;
    Columns columns;
    Cells cells = {0};
    Symbols table = {NULL, NULL, 0, 0, 0, 0};
    Text text = {NULL, 0, 0};
    PyObject *result = NULL;
    (void)self;
    if (!PyArg_ParseTuple(
            args, "y*ny#y#y#y#y#", &block, &at, &kinds, &count, &symbol, &size, &wanted, &names, &channel.at,
            &channel_size, &origin.at, &origin_size))
        return NULL;
    int known = columns_of(kinds, count, symbol, size, &columns) && channel_size <= LABEL_MAX && origin_size <= LABEL_MAX;
    if (!is_sound(at, &block, known)) goto done;
    channel.size = (int)channel_size;
    origin.size = (int)origin_size;
    if (!names_of(&table, wanted, names)) {
        PyErr_NoMemory();
        goto done;
    }
    const char *start = block.buf;
    int source = memchr(kinds, 'f', (size_t)count) != NULL;
    while (at < block.len) {
        const char *end = memchr(start + at, '\n', (size_t)(block.len - at));
        if (end == NULL || !cells_of(start + at, end, &columns, &cells)) break;
        if (symbols_find(&table, NOBODY, cells.symbol) >= 0) {
            if (!reserve(&text, ROW_MAX)) {
                PyErr_NoMemory();
                goto done;
            }
            write_row(&text, &cells, channel, origin, source);
            made++;
        }
        at = end + 1 - start;
    }
    result = Py_BuildValue("(y#nn)", text.used ? text.start : "", (Py_ssize_t)text.used, made, at);
done:
    PyMem_Free(text.start);
    symbols_free(&table);
    PyBuffer_Release(&block);
    return result;
}

/* Sixteen bytes side by side, each with a count of its own. */
typedef unsigned char Bytes __attribute__((vector_size(16)));

static Py_ssize_t count_newlines(const char *at, const char *end) {
    const Bytes newline = (Bytes){0} + (unsigned char)'\n';
    Py_ssize_t found = 0;
    while (end - at >= 16) {
        Bytes counts = {0}, some;
        for (int turn = 0; turn < 255 && end - at >= 16; turn++, at += 16) {
            memcpy(&some, at, 16);
            counts -= (Bytes)(some == newline); /* all bits where they are the same */
        }
        for (int i = 0; i < 16; i++) found += counts[i];
    }
    for (; at < end; at++) found += *at == '\n';
    return found;
}

PyDoc_STRVAR(newlines_doc,
             "newlines(block, at, end) -> int\n\n"
             "Count the newlines between two offsets, twenty times as fast as bytes.count.");
static PyObject *newlines(PyObject *self, PyObject *args) {
    (void)self;
    Py_buffer block;
    Py_ssize_t at, end;
    if (!PyArg_ParseTuple(args, "y*nn", &block, &at, &end)) return NULL;
    const char *start = block.buf;
    int inside = in_block(at, &block) && in_block(end, &block);
    Py_ssize_t found = inside ? count_newlines(start + at, start + end) : 0;
    PyBuffer_Release(&block);
    return inside ? PyLong_FromSsize_t(found) : NULL;
}

static PyMethodDef methods[] = {
    {"newlines", newlines, METH_VARARGS, newlines_doc},
    {"scan", scan, METH_VARARGS, scan_doc},
    {"pushes", pushes, METH_VARARGS, pushes_doc},
    {NULL, NULL, 0, NULL},
};

KERNEL_MODULE(rows, "Everyday rows of bulk files.", methods, NULL)
