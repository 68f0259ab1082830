#ifndef TS_WORKSPACE_H
#define TS_WORKSPACE_H

#include <stddef.h>
#include <stdint.h>

/* Memory for one call, kept for the next one, since fresh pages cost more than a small product. NULL if there is none.
 * When two callers meet, the second one has its own. */
void *ts_workspace_take(size_t bytes);
void ts_workspace_give(void *memory);

/* Hands out parts of a workspace; with base NULL it only measures. */
typedef struct {
    char *base;
    size_t used;
} Bump;

void *ts_bump(Bump *bump, size_t bytes);

/* Work that several threads share without waiting for one that has not woken up yet: each takes the next task while
 * there is one, and leaves when all are done. A phase starts as zeros. */
typedef struct {
    int64_t next, done;
} Phase;

/* Runs task(context, i) for i in 0 .. count - 1 together with the other threads that call it on this phase. */
void ts_phase(Phase *phase, int64_t count, void (*task)(void *context, int64_t i), void *context);

#endif
