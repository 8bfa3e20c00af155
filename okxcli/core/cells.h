/* Rows of fills in files of cells between commas, whose columns somebody else has told. */
#ifndef OKX_CELLS_H
#define OKX_CELLS_H

#include "fill.h"

#define COLUMNS_MAX 32
/* 2011 to 2096: rows of other times are looked at more closely (layouts.py), and their numbers spelt anew. */
#define EVERYDAY_FROM INT64_C(1300000000000)
#define EVERYDAY_TO INT64_C(4000000000000)

/* `kinds`: what each column holds, a letter each: s symbol, i id, d side, p price, z size, t time in ms, f source, and a
   dash for what says nothing here. `symbol` is that of all rows where no column tells it. */
typedef struct {
    const char *kinds;
    int count;
    Span symbol;
} Columns;

/* One row. The spans are its text. */
typedef struct {
    Span symbol, id_text, side, price_text, size_text, time_text, source;
    int64_t id, timestamp;
    Number price, size;
    int buy;
} Cells;

/* A positive number in plain notation, of no more digits than a product may have. */
static inline int exact(Cursor *c, Span *span, Number *number) {
    uint64_t found, part;
    int places = 0;
    span->at = c->p;
    int size = digits_of(c, &found);
    if (size < 1 || size > DIGITS_MAX || (*span->at == '0' && size > 1)) return 0;
    if (c->p < c->end && *c->p == '.') {
        c->p++;
        places = digits_of(c, &part);
        if (places < 1 || size + places > DIGITS_MAX) return 0;
        found = found * (uint64_t)TENS[places] + part;
        for (; places && found % 10 == 0 && found; places--) found /= 10;
    }
    span->size = (int)(c->p - span->at);
    number->mantissa = (int64_t)found;
    number->places = places;
    return found != 0;
}

/* The same name as that of the row before, or any. */
static inline int name(Cursor *c, Span *span) {
    ptrdiff_t size = span->size;
    if (size && c->end - c->p > size && c->p[size] == ',' && memcmp(c->p, span->at, (size_t)size) == 0) {
        span->at = c->p;
        c->p += size;
        return 1;
    }
    return symbol_name(c, span);
}

/* Which of both it is follows no order: no branch for it. */
static inline int side(Cursor *c, Span *span, int *buy) {
    if (c->end - c->p < 4) return 0;
    *buy = memcmp(c->p, "buy,", 4) == 0;
    if (!(*buy | (memcmp(c->p, "sell", 4) == 0))) return 0;
    span->at = c->p;
    span->size = 4 - *buy;
    c->p += span->size;
    return 1;
}

static inline int cell(Cursor *c, char kind, Cells *cells) {
    int64_t number;
    switch (kind) {
    case 's':
        return name(c, &cells->symbol);
    case 'i':
        return whole(c, &cells->id_text, &cells->id) && cells->id;
    case 'd':
        return side(c, &cells->side, &cells->buy);
    case 'p':
        return exact(c, &cells->price_text, &cells->price);
    case 'z':
        return exact(c, &cells->size_text, &cells->size);
    case 't':
        return whole(c, &cells->time_text, &cells->timestamp) && cells->timestamp >= EVERYDAY_FROM &&
               cells->timestamp < EVERYDAY_TO;
    case 'f': /* empty where nothing is said */
        cells->source = (Span){c->p, 0};
        if (c->p == c->end || *c->p == ',') return 1;
        return whole(c, &cells->source, &number) && number < 1000;
    default:
        while (c->p < c->end && *c->p != ',' && *c->p != '\r') c->p++;
        return 1;
    }
}

/* A line of cells, without its newline; 0 where any is not of the everyday form. `cells` are those of the row before, or
   nothing. */
static inline int cells_of(const char *start, const char *end, const Columns *columns, Cells *cells) {
    Cursor c = {start, end > start && end[-1] == '\r' ? end - 1 : end};
    if (columns->symbol.size) cells->symbol = columns->symbol;
    for (int i = 0; i < columns->count; i++) {
        if (i && !LITERAL(&c, ",")) return 0;
        if (!cell(&c, columns->kinds[i], cells)) return 0;
    }
    return c.p == c.end;
}

/* Whether a row has all that a fill is of. */
static inline int columns_of(const char *kinds, Py_ssize_t count, const char *symbol, Py_ssize_t size, Columns *columns) {
    static const char needed[] = "idpzt";
    *columns = (Columns){kinds, (int)count, {symbol, (int)size}};
    if (count < 5 || count > COLUMNS_MAX || size > SYMBOL_MAX) return 0;
    for (const char *one = needed; *one; one++)
        if (memchr(kinds, *one, (size_t)count) == NULL) return 0;
    return (size == 0) == (memchr(kinds, 's', (size_t)count) != NULL);
}

#endif
