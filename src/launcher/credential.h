#pragma once

/*
 * credential: the secrets that agents get in their environment, named in the configuration by NAME=credential, and
 * handed to the launcher by its service manager.
 */

#include "launcher/failure.h"
#include "launcher/spec.h"

/* Adds each credential that the spec names to its environment. -errno with the failure filled. */
int credential_add_all(Spec *spec, Failure *failure) _must_check_;
