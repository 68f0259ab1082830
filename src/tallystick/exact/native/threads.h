#ifndef TS_THREADS_H
#define TS_THREADS_H

/* Calls work(context, part, parts) once for every part in 0..parts-1, parts <= threads, and returns when all are done.
 * The caller takes part itself; a part must not wait for another one to start. When the pool is taken by another
 * caller, the caller does all the work as one part. */
void ts_parallel(int threads, void (*work)(void *context, int part, int parts), void *context);

#endif
