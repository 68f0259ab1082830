/* Work on the threads of the OpenMP runtime that torch has loaded. Threads of our own would fight with those for the
 * cores: they spin for milliseconds after each of torch's operators, in the hope of the next one. */
#ifndef TS_THREADS_H
#define TS_THREADS_H

/* GOMP_parallel of GCC's runtime, which Clang's and Intel's have as well: runs function(data) on `threads` threads, the
 * caller one of them, and returns when all are done. */
typedef void (*Team)(void (*function)(void *data), void *data, unsigned threads, unsigned flags);

/* Before the first call below; without it, and in a forked child, the caller does all the work as one part. */
void ts_share_team(Team team);

/* Calls work(context, part, parts) once for every part in 0..parts-1, parts <= threads, and returns when all are done.
 * A part must not wait for another one to start: whoever is awake takes the next. */
void ts_parallel(int threads, void (*work)(void *context, int part, int parts), void *context);

#endif
