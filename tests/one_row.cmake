# The names of scan backends, dtypes and devices stand in their tables (kernels/choices.h) only: no other C++ file of
# lib/, app/ and kernels/ has one as a string of its own, or lists them in a text. cmake -DSOURCE=… -P tests/one_row.cmake
cmake_minimum_required(VERSION 3.25)

set(table kernels/choices.h)
# Files of other programs' words: what old configs said, how PyTorch's pickles name a storage, and Linux a control group.
set(other_words lib/config/migrate.h lib/config/migrate_python.cpp lib/config/migrate_rules.h lib/config/migrate.cpp lib/config/migrate_yaml.cpp app/migrate_config.cpp lib/tensors/pickle.cpp kernels/cgroup.cpp)

# Strings in a row of the table: "oflex", "float16", "fp16", …
file(STRINGS ${SOURCE}/${table} rows REGEX "^    (\\{(DType|Precision|DeviceType|ScanBackend)::|stored_as)")
set(names "")
foreach(row IN LISTS rows)
  string(REGEX MATCHALL "\"[a-z][a-z0-9]+\"" words "${row}")
  list(APPEND names ${words})
endforeach()
list(REMOVE_ITEM names "\"null\"" "\"auto\"" "\"bool\"")
foreach(known oflex bfloat16 half gpu)
  if(NOT "\"${known}\"" IN_LIST names)
    message(FATAL_ERROR "${table}: no row with \"${known}\" was found; the pattern of this check is out of date")
  endif()
endforeach()
list(JOIN names "|" as_strings)
set(in_texts "\"[^\"]*(oflex|bfloat16|tf32)[^\"]*\"")  # words that mean nothing else

set(wrong 0)
set(seen 0)
file(GLOB_RECURSE files RELATIVE ${SOURCE} ${SOURCE}/lib/*.h ${SOURCE}/lib/*.cpp ${SOURCE}/app/*.h ${SOURCE}/app/*.cpp
  ${SOURCE}/kernels/*.h ${SOURCE}/kernels/*.cpp)
list(REMOVE_ITEM files ${table} ${other_words})
foreach(file IN LISTS files)
  math(EXPR seen "${seen} + 1")
  file(STRINGS ${SOURCE}/${file} lines REGEX "${as_strings}|${in_texts}")
  foreach(line IN LISTS lines)
    string(REGEX REPLACE "//.*" "" code "${line}")
    if(code MATCHES "${as_strings}|${in_texts}" AND NOT code MATCHES "^#(include|define HWY_TARGET_INCLUDE)")
      message("${file}: names a row of ${table}; loop over the table or use to_string: ${line}")
      math(EXPR wrong "${wrong} + 1")
    endif()
  endforeach()
endforeach()
if(wrong GREATER 0 OR seen LESS 100)
  message(FATAL_ERROR "${wrong} names beside the table, in ${seen} files")
endif()
message("${seen} files leave the names to the table")
