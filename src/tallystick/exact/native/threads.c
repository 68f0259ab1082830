/* A pool of threads that starts with the first parallel call and sleeps between calls. */
#include "threads.h"

#include <pthread.h>

enum { MAX_THREADS = 256, SPINS = 1000 };

static pthread_mutex_t taken = PTHREAD_MUTEX_INITIALIZER; /* held by the caller whose parts run */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;  /* guards what follows */
static pthread_cond_t begin = PTHREAD_COND_INITIALIZER, finish = PTHREAD_COND_INITIALIZER;
static int started, parts, next_part, running;
static void (*current)(void *, int, int);
static void *current_context;

/* Runs parts that nobody has taken yet; a part whose thread is slow to wake is done by one that is awake.
 * Called and left with `lock` held. */
static void take_parts(void) {
    while (next_part < parts) {
        void (*work)(void *, int, int) = current;
        void *context = current_context;
        const int part = next_part, count = parts;
        __atomic_store_n(&next_part, part + 1, __ATOMIC_RELAXED);
        running++;
        pthread_mutex_unlock(&lock);
        work(context, part, count);
        pthread_mutex_lock(&lock);
        running--;
    }
}

static int waiting(void) {
    return __atomic_load_n(&next_part, __ATOMIC_RELAXED) < __atomic_load_n(&parts, __ATOMIC_RELAXED);
}

/* A few microseconds: calls often follow each other closely, and waking a sleeper takes longer than that. */
static void spin(void) {
    for (int i = 0; i < SPINS && !waiting(); i++) {
#if defined(__x86_64__)
        __builtin_ia32_pause();
#endif
    }
}

static void *serve(void *argument) {
    (void)argument;
    pthread_mutex_lock(&lock);
    for (;;) {
        take_parts();
        if (running == 0) pthread_cond_signal(&finish);
        pthread_mutex_unlock(&lock);
        spin();
        pthread_mutex_lock(&lock);
        while (next_part >= parts) pthread_cond_wait(&begin, &lock);
    }
    return NULL;
}

/* A forked child has none of the threads. */
static void forget(void) {
    started = parts = next_part = running = 0;
    pthread_mutex_init(&taken, NULL);
    pthread_mutex_init(&lock, NULL);
    pthread_cond_init(&begin, NULL);
    pthread_cond_init(&finish, NULL);
}

/* Starts what is missing; returns how many parts can run at once. */
static int grow(int threads) {
    static int registered;
    if (!registered) registered = pthread_atfork(NULL, NULL, forget) == 0;
    while (started < threads - 1) {
        pthread_t thread;
        if (pthread_create(&thread, NULL, serve, NULL) != 0) break;
        pthread_detach(thread);
        started++;
    }
    return started + 1 < threads ? started + 1 : threads;
}

void ts_parallel(int threads, void (*work)(void *context, int part, int parts), void *context) {
    if (threads > MAX_THREADS) threads = MAX_THREADS;
    if (threads <= 1 || pthread_mutex_trylock(&taken) != 0) {
        work(context, 0, 1);
        return;
    }
    pthread_mutex_lock(&lock);
    const int count = grow(threads);
    current = work;
    current_context = context;
    next_part = 0;
    __atomic_store_n(&parts, count, __ATOMIC_RELAXED);
    pthread_cond_broadcast(&begin);
    take_parts();
    while (running > 0) pthread_cond_wait(&finish, &lock);
    parts = next_part = 0;
    pthread_mutex_unlock(&lock);
    pthread_mutex_unlock(&taken);
}
