/* Text that grows. Include Python.h first. */
#ifndef OKX_TEXT_H
#define OKX_TEXT_H

#include "scan.h"

typedef struct {
    char *start;
    size_t used, room;
} Text;

/* Make room for so many bytes more; 0 without memory. */
static inline int reserve(Text *text, size_t more) {
    if (text->room - text->used >= more) return 1;
    size_t room = text->room ? text->room * 2 : 1 << 12;
    while (room - text->used < more) room *= 2;
    char *start = PyMem_Realloc(text->start, room);
    if (start == NULL) return 0;
    text->start = start;
    text->room = room;
    return 1;
}

static inline void put(Text *text, const char *from, size_t size) {
    memcpy(text->start + text->used, from, size);
    text->used += size;
}
#define PUT(text, words) put(text, words, sizeof(words) - 1)
#define PUT_SPAN(text, span) put(text, (span).at, (size_t)(span).size)
#define PUT_AFTER(text, words, span) (PUT(text, words), PUT_SPAN(text, span))

#endif
