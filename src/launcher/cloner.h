#pragma once

/*
 * cloner: clones a sandbox's first process so that it shares our memory, as vfork(2), until it executes another program
 * or ends. A copy of our page tables, and the faults that follow in both, would cost more than all else of a start. A
 * thread that vforks is asleep until then, so each such clone is made by a thread of its own, and the loop goes on: a
 * child may wait long, for the file system of a workspace that its owner serves.
 *
 * What the child may do: system calls, and writes to its own stack and to what it was given. No allocation, no lock
 * that anybody takes for writing (strerror() only reads the locale's), no library call that keeps state (nor setuid()
 * and its like, which mean all threads): it may be killed at any moment, and must leave this memory whole.
 *
 * It has the errno of its thread, and so has a child of its own, on the second stack. That one outlives it in our
 * memory for a moment where it is killed: a process leaves its memory before its pid namespace is ended. So the thread
 * is taken until the child has said that it is alone, or has ended together with its namespace.
 *
 * We are not dumpable, so neither is the child, whatever ids it takes on: no process of the task's user can look into
 * it, or us. That is so unless fs.suid_dumpable is 1, which is looked at before each clone.
 */

#include <linux/sched.h>
#include <pthread.h>
#include <semaphore.h>

#include "base/macro.h"

/* A start takes a few ms of a processor: more at once only wait for each other. */
#define CLONER_THREADS 8

typedef struct Cloner Cloner;
typedef struct ClonerThread ClonerThread;
/*
 * Runs in the child, and never returns. stack is the end of CLONER_STACK bytes for a child of its own, which must be in
 * a pid namespace that dies with it. *alone is to be set once that child has left our memory, in any case before an
 * execve; who ends instead need not.
 */
typedef void (*ClonerRun)(void *userdata, void *stack, _Atomic(bool) *alone);

struct ClonerThread {
        Cloner *cloner;
        pthread_t thread;
        bool made;
        bool stop;
        _Atomic(bool) busy;     /* until neither the child nor what it cloned is in our memory */
        _Atomic(bool) alone;    /* said by the child: what it cloned has left our memory, or there is nothing */
        sem_t work;
        sem_t started;          /* the child runs, or there is none; anew for each */
        struct clone_args *args;
        ClonerRun run;
        void *userdata;
        pid_t pid;              /* written by the kernel, before the child runs */
        int error;
};

struct Cloner {
        bool usable;            /* by this machine, whatever fs.suid_dumpable is just now */
        int suid_dumpable_fd;
        bool stuck;             /* all threads were busy for too long: don't wait for one until one is free again */
        sem_t idle;
        ClonerThread threads[CLONER_THREADS];
};

#define CLONER_STACK KIB(64)    /* of the second stack that run() is given */

/* Finds out whether this machine allows it; without, every clone answers EAGAIN. */
void cloner_init(Cloner *c);
/* Every child has ended. */
void cloner_deinit(Cloner *c);
/*
 * Clones with these flags and more, and calls run() in the child. Returns the pid once the child runs; its descriptors
 * are copies by then, its memory is ours until it is done with it. -EAGAIN: every thread is taken, or can't be had, or
 * fs.suid_dumpable is 1: copy instead. Else -errno of clone3(2).
 */
pid_t cloner_clone(Cloner *c, struct clone_args *args, ClonerRun run, void *userdata);
