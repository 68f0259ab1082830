#ifndef TS_THREADS_H
#define TS_THREADS_H

/* Calls work(context, part, parts) for every part in 0..parts-1, parts <= threads, and returns when all are done. The
 * caller does one part itself; when the pool is taken by another caller, it does all of them. */
void ts_parallel(int threads, void (*work)(void *context, int part, int parts), void *context);

#endif
