/* Numbers for symbols in the order in which they come: a table with open addressing. Include Python.h first. */
#ifndef OKX_SYMBOLS_H
#define OKX_SYMBOLS_H

#include "scan.h"

typedef struct {
    char text[LABEL_MAX + 1 + SYMBOL_MAX]; /* exchange, newline, symbol */
    int size, exchange;
    uint32_t hash;
} Symbol;

typedef struct {
    Symbol *symbols;
    uint32_t *slots; /* 1 + a number, 0 where none is */
    uint32_t used, room, mask, last;
} Symbols;

static inline uint32_t hash_of(Span exchange, Span symbol) {
    uint32_t hash = 2166136261u;
    for (int i = 0; i < exchange.size; i++) hash = (hash ^ (unsigned char)exchange.at[i]) * 16777619u;
    for (int i = 0; i < symbol.size; i++) hash = (hash ^ (unsigned char)symbol.at[i]) * 16777619u;
    return hash;
}

static inline int is_symbol(const Symbol *one, Span exchange, Span symbol) {
    return one->exchange == exchange.size && one->size == exchange.size + 1 + symbol.size &&
           memcmp(one->text, exchange.at, (size_t)exchange.size) == 0 &&
           memcmp(one->text + exchange.size + 1, symbol.at, (size_t)symbol.size) == 0;
}

/* The number of a symbol; -1 where it has none. */
static inline int64_t symbols_find(Symbols *table, Span exchange, Span symbol) {
    if (table->used == 0) return -1;
    if (is_symbol(&table->symbols[table->last], exchange, symbol)) return table->last;
    uint32_t hash = hash_of(exchange, symbol);
    for (uint32_t at = hash & table->mask; table->slots[at]; at = (at + 1) & table->mask) {
        uint32_t number = table->slots[at] - 1;
        if (table->symbols[number].hash == hash && is_symbol(&table->symbols[number], exchange, symbol)) {
            table->last = number;
            return number;
        }
    }
    return -1;
}

/* Twice the room; at most half of the slots are ever taken. */
static inline int symbols_grow(Symbols *table) {
    uint32_t room = table->room ? table->room * 2 : 16;
    if (room > 1u << 24) return 0;
    Symbol *symbols = PyMem_Realloc(table->symbols, room * sizeof(Symbol));
    if (symbols == NULL) return 0;
    table->symbols = symbols;
    uint32_t *slots = PyMem_Calloc((size_t)room * 2, sizeof(uint32_t));
    if (slots == NULL) return 0;
    PyMem_Free(table->slots);
    table->slots = slots;
    table->room = room;
    table->mask = room * 2 - 1;
    for (uint32_t i = 0; i < table->used; i++) {
        uint32_t at = table->symbols[i].hash & table->mask;
        while (slots[at]) at = (at + 1) & table->mask;
        slots[at] = i + 1;
    }
    return 1;
}

/* Give a symbol that has none the next number; -1 without memory. Its names are no longer than they may be. */
static inline int64_t symbols_add(Symbols *table, Span exchange, Span symbol) {
    if (table->used == table->room && !symbols_grow(table)) return -1;
    Symbol *one = &table->symbols[table->used];
    memcpy(one->text, exchange.at, (size_t)exchange.size);
    one->text[exchange.size] = '\n';
    memcpy(one->text + exchange.size + 1, symbol.at, (size_t)symbol.size);
    one->exchange = exchange.size;
    one->size = exchange.size + 1 + symbol.size;
    one->hash = hash_of(exchange, symbol);
    uint32_t slot = one->hash & table->mask;
    while (table->slots[slot]) slot = (slot + 1) & table->mask;
    table->slots[slot] = table->used + 1;
    table->last = table->used;
    return table->used++;
}

static inline void symbols_free(Symbols *table) {
    PyMem_Free(table->symbols);
    PyMem_Free(table->slots);
}

#endif
