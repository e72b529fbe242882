// This program, for the reports of what it did.
#pragma once
#include "lib/verify/provenance.h"

namespace vmamba {

Program this_program();

}  // namespace vmamba
