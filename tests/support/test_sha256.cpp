// SHA-256 against the examples of FIPS 180-4 and NIST's vectors, and in pieces of every size.
#include <doctest/doctest.h>

#include "lib/support/sha256.h"

using vmamba::sha256;
using vmamba::Sha256;

TEST_CASE("SHA-256 of known messages") {
  CHECK(sha256("") == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
  CHECK(sha256("abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
  CHECK(sha256("abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq") ==
        "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1");
  CHECK(sha256(std::string(1'000'000, 'a')) ==
        "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0");
}

TEST_CASE("SHA-256 does not depend on how a message comes in pieces") {
  std::string text;
  for (int i = 0; i < 300; ++i) text += static_cast<char>(i * 7);
  const std::string whole = sha256(text);
  for (size_t first = 0; first <= 130; ++first) {
    Sha256 sum;
    sum.add(text.substr(0, first));
    sum.add(text.substr(first));
    CHECK(sum.hex() == whole);
  }
}
