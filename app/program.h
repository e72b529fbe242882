// Identifies this program in its reports.
#pragma once
#include "lib/verify/provenance.h"

namespace vmamba {

void note_command_line(int argc, char** argv);  // once, before this_program()
Program this_program();

}  // namespace vmamba
