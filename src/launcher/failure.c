#include <stdarg.h>
#include <stdio.h>

#include "base/error.h"
#include "launcher/failure.h"

int failure_set(Failure *f, const char *stage, int error, const char *format, ...) {
        va_list ap;

        f->error = error > 0 ? error : EIO;
        snprintf(f->stage, sizeof(f->stage), "%s", stage);
        va_start(ap, format);
        if (vsnprintf(f->text, sizeof(f->text), format, ap) < 0)
                f->text[0] = 0;
        va_end(ap);
        return error_origin(-f->error);
}
