#pragma once

/*
 * Spec: one SPAWN message, decoded and validated as far as that needs no file system: names, paths without `..`, counts
 * within the message's own bound. What it asks for is judged later, by whoever provides it.
 */

#include "base/id.h"
#include "base/launch.h"
#include "launcher/failure.h"
#include "launcher/strlist.h"

typedef struct Spec Spec;
typedef struct SpecFile SpecFile;

#define SPEC_AGENT_MAX 64

struct SpecFile {
        char *path;             /* relative, no "..", no empty component */
        mode_t mode;            /* permission bits only */
        uint8_t *content;
        size_t n;
};

struct Spec {
        Id attempt;
        Id task;
        char *agent;
        StrList argv;
        StrList environment;
        StrList credentials;    /* "NAME=credential" */
        StrList read_only;
        StrList require;
        SpecFile *files;
        size_t n_files;
        char *workspace;        /* NULL: none */
        char *seccomp;          /* NULL: "agent" */
        int64_t uid;            /* -1: the worker user */
        uint64_t memory_max;    /* 0: none given */
        uint32_t pids_max;
        uint32_t cpu_percent;
        uint32_t gpus[LAUNCH_GPUS_MAX]; /* each once */
        size_t n_gpus;
        bool network;
};

enum {
        _SPEC_E_SUCCESS,
        SPEC_E_MALFORMED,       /* not even an attempt id: nobody to answer to */
        SPEC_E_INVALID,         /* failure says what; ret_spec->attempt is set */
};

/* The reader stands after launch_open() of a SPAWN. On success and SPEC_E_INVALID the Spec is the caller's. -ENOMEM. */
int spec_read(LaunchReader *reader, Spec *ret_spec, Failure *failure) _must_check_;
void spec_deinit(Spec *spec);
/* Credentials are in it. */
void spec_wipe_environment(Spec *spec);

/* An absolute path of plain components: no "..", no ".", no "//", no "/" at its end (the root itself is refused too). */
bool spec_path_is_absolute(const char *path);
/* The same without the first slash. */
bool spec_path_is_relative(const char *path);
/* True where path is dir or lies below it; both absolute and plain. */
bool spec_path_is_within(const char *path, const char *dir);
