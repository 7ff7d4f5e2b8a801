#pragma once

/*
 * view: what every sandbox shows of this machine, settled at start, and what none may show. The system folders are /usr
 * and those of the root that are links into it (merged /usr) or folders of their own; our state, runtime and
 * configuration folders are protected: a path that leads to, into, or around one of them is never mounted.
 */

#include "base/macro.h"
#include "launcher/etc.h"
#include "launcher/strlist.h"

#define VIEW_ENTRIES_MAX 8
#define VIEW_HOME "/home/agent" /* HOME of every task: its own folder, mounted here */

typedef struct View View;

struct View {
        struct {
                const char *name;       /* "bin" */
                char target[64];        /* of the link; "" for a folder to bind */
        } entries[VIEW_ENTRIES_MAX];
        size_t n_entries;
        StrList protected;              /* real paths */
        /*
         * RUNTIME_DIRECTORY/sandbox, where "root" is the place at which a sandbox's root is put together. A path, since
         * a child must open it anew: descriptors of our mount namespace can't be mounted on in its own.
         */
        char *runtime_path;
        Etc etc;
};

#define VIEW_NULL { .etc = ETC_NULL }

/* runtime_dir must exist. -errno. */
int view_init(View *v, const char *runtime_dir) _must_check_;
void view_deinit(View *v);
/* Adds a folder that no sandbox may see; one that does not exist is taken as written. */
int view_protect(View *v, const char *path) _must_check_;
/* The protected folder that this real path touches, or NULL. */
const char *view_protects(const View *v, const char *path);
