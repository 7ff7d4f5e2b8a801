#include <fcntl.h>
#include <stdio.h>

#include "base/error.h"
#include "base/fd.h"
#include "base/service.h"
#include "launcher/credential.h"

/* A credential is a key or a token, not a document. */
#define CREDENTIAL_MAX KIB(16)

/* systemd.exec(5), LoadCredential=: a file in CREDENTIALS_DIRECTORY; one newline at its end is not part of it. */
static int credential_add(Spec *spec, const char *entry, Failure *failure) {
        const char *directory = service_credentials_dir(), *name = strchr(entry, '=') + 1;
        _cleanup_free_ char *path = NULL, *value = NULL;
        char *line;
        size_t n;
        int r;

        if (!directory)
                return failure_set(failure, "credential", ENOENT,
                                   "the launcher was given no credentials; add LoadCredential=%s:PATH to "
                                   "agent-router-launcher.service",
                                   name);
        if (asprintf(&path, "%s/%s", directory, name) < 0) {
                path = NULL;
                return failure_set(failure, "credential", ENOMEM, "no memory for the credential %s", name);
        }
        r = fd_read_file(AT_FDCWD, path, CREDENTIAL_MAX, &value, &n);
        if (r)
                return failure_set(failure, "credential", r > 0 ? EFBIG : -r, "the credential %s can't be read: %s; add LoadCredential=%s:PATH to "
                                   "agent-router-launcher.service and restart it", name, r > 0 ? "larger than 16 KiB" : strerror(-r), name);
        if (n && value[n - 1] == '\n')
                value[--n] = 0;
        if (memchr(value, 0, n))
                return failure_set(failure, "credential", EINVAL, "the credential %s holds a NUL byte, which no environment can carry", name);
        r = asprintf(&line, "%.*s=%s", (int)(name - 1 - entry), entry, value);
        explicit_bzero(value, n);
        if (r < 0)
                return failure_set(failure, "credential", ENOMEM, "no memory for the credential %s", name);
        r = str_list_add_take(&spec->environment, line);
        return r ? failure_set(failure, "credential", ENOMEM, "no memory for the credential %s", name) : 0;
}

int credential_add_all(Spec *spec, Failure *failure) {
        int r = 0;

        for (size_t i = 0; r == 0 && i < spec->credentials.n; i++)
                r = credential_add(spec, spec->credentials.items[i], failure);
        return error_trace(r);
}
