/* A pool of threads that starts with the first parallel call and sleeps between calls. */
#include "threads.h"

#include <pthread.h>

enum { MAX_THREADS = 256 };

static pthread_mutex_t taken = PTHREAD_MUTEX_INITIALIZER; /* held by the caller whose parts run */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;  /* guards what follows */
static pthread_cond_t begin = PTHREAD_COND_INITIALIZER, finish = PTHREAD_COND_INITIALIZER;
static int started, parts, waiting;
static unsigned round_number;
static void (*current)(void *, int, int);
static void *current_context;

static void *serve(void *argument) {
    const int part = (int)(long)argument;
    unsigned seen = 0;
    pthread_mutex_lock(&lock);
    for (;;) {
        while (seen == round_number) pthread_cond_wait(&begin, &lock);
        seen = round_number;
        if (part >= parts) continue;
        void (*work)(void *, int, int) = current;
        void *context = current_context;
        const int count = parts;
        pthread_mutex_unlock(&lock);
        work(context, part, count);
        pthread_mutex_lock(&lock);
        if (--waiting == 0) pthread_cond_signal(&finish);
    }
    return NULL;
}

/* A forked child has none of the threads. */
static void forget(void) {
    started = 0;
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
        if (pthread_create(&thread, NULL, serve, (void *)(long)(started + 1)) != 0) break;
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
    parts = count;
    waiting = count - 1;
    current = work;
    current_context = context;
    round_number++;
    pthread_cond_broadcast(&begin);
    pthread_mutex_unlock(&lock);
    work(context, 0, count);
    pthread_mutex_lock(&lock);
    while (waiting > 0) pthread_cond_wait(&finish, &lock);
    pthread_mutex_unlock(&lock);
    pthread_mutex_unlock(&taken);
}
