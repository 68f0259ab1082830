#define _DEFAULT_SOURCE
#include "workspace.h"

#include <sched.h>
#include <stdlib.h>
#include <sys/mman.h>

enum { ALIGNMENT = 64, LARGE_PAGE = 1 << 21, KEPT_BYTES = 1 << 25, SPINS = 2000 };

static char busy;
static void *kept;
static size_t kept_bytes;

static void *fresh(size_t bytes) {
    void *memory = NULL;
    const size_t alignment = bytes < LARGE_PAGE ? ALIGNMENT : LARGE_PAGE;
    if (posix_memalign(&memory, alignment, bytes) != 0) return NULL;
#if defined(MADV_HUGEPAGE)
    if (bytes >= LARGE_PAGE) madvise(memory, bytes, MADV_HUGEPAGE); /* panels span more pages than are translated fast */
#endif
    return memory;
}

void *ts_workspace_take(size_t bytes) {
    if (bytes > KEPT_BYTES || __atomic_test_and_set(&busy, __ATOMIC_ACQUIRE)) return fresh(bytes);
    if (kept_bytes < bytes) {
        free(kept);
        kept = fresh(bytes);
        kept_bytes = kept ? bytes : 0;
    }
    if (!kept) __atomic_clear(&busy, __ATOMIC_RELEASE);
    return kept;
}

void ts_workspace_give(void *memory) {
    if (memory == kept && memory) {
        __atomic_clear(&busy, __ATOMIC_RELEASE);
    } else {
        free(memory);
    }
}

void *ts_bump(Bump *bump, size_t bytes) {
    void *place = bump->base ? bump->base + bump->used : NULL;
    bump->used += (bytes + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
    return place;
}

static inline void breathe(int *spins) {
    if (++*spins >= SPINS) {
        *spins = 0;
        sched_yield();
    }
#if defined(__x86_64__)
    __builtin_ia32_pause();
#endif
}

void ts_phase(Phase *phase, int64_t count, void (*task)(void *context, int64_t i), void *context) {
    int64_t i;
    while ((i = __atomic_fetch_add(&phase->next, 1, __ATOMIC_RELAXED)) < count) {
        task(context, i);
        __atomic_fetch_add(&phase->done, 1, __ATOMIC_RELEASE);
    }
    for (int spins = 0; __atomic_load_n(&phase->done, __ATOMIC_ACQUIRE) < count;) breathe(&spins);
}
