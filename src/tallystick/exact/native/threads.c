#include "threads.h"

#include <pthread.h>
#include <stddef.h>

typedef struct {
    void (*work)(void *context, int part, int parts);
    void *context;
    int parts, next;
} Parts;

static Team team;

/* A forked child has none of the threads. */
static void forget(void) { team = NULL; }

void ts_share_team(Team shared) {
    static int registered;
    if (!registered) registered = pthread_atfork(NULL, NULL, forget) == 0;
    team = registered ? shared : NULL;
}

static void take_parts(void *argument) {
    Parts *p = argument;
    int part;
    while ((part = __atomic_fetch_add(&p->next, 1, __ATOMIC_RELAXED)) < p->parts) p->work(p->context, part, p->parts);
}

void ts_parallel(int threads, void (*work)(void *context, int part, int parts), void *context) {
    if (threads <= 1 || !team) {
        work(context, 0, 1);
        return;
    }
    Parts parts = {work, context, threads, 0};
    team(take_parts, &parts, (unsigned)threads, 0);
}
