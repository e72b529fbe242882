// Identifies this program in its reports.
#pragma once
#include "lib/verify/provenance.h"

namespace vmamba {

Program this_program();

}  // namespace vmamba
