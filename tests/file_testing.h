#pragma once

#include <gtest/gtest.h>

#include <cstdint>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <span>
#include <string>
#include <string_view>

#include "cambium/error.h"
#include "temp_folder.h"

// What tests of file formats share.
namespace cambium::testing {

// Little-endian bytes of a made-up file.
class Bytes {
 public:
  template <class T>
  Bytes& Put(T value) {
    text_.append(reinterpret_cast<const char*>(&value), sizeof value);
    return *this;
  }
  Bytes& Text(std::string_view text) {
    text_ += text;
    return *this;
  }
  Bytes& Str(std::string_view text) { return Put<uint64_t>(text.size()).Text(text); }  // GGUF's string
  Bytes& Pad(size_t multiple) {
    text_.resize((text_.size() + multiple - 1) / multiple * multiple);
    return *this;
  }
  std::span<const uint8_t> span() const { return {reinterpret_cast<const uint8_t*>(text_.data()), text_.size()}; }
  const std::string& str() const { return text_; }

 private:
  std::string text_;
};

inline void WriteFile(const std::string& path, std::string_view text) {
  std::filesystem::create_directories(std::filesystem::path(path).parent_path());
  std::ofstream(path, std::ios::binary) << text;
}

inline std::string ReadFile(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

// Expects an Error of `code` in one line that holds every one of `parts`.
template <class F>
void ExpectError(ErrorCode code, std::initializer_list<std::string_view> parts, const F& f) {
  try {
    f();
    ADD_FAILURE() << "no error; expected " << *parts.begin();
  } catch (const Error& error) {
    const std::string what = error.what();
    EXPECT_EQ(error.code(), code) << what;
    EXPECT_EQ(what.find('\n'), std::string::npos) << what;
    for (std::string_view part : parts) EXPECT_NE(what.find(part), std::string::npos) << what << " lacks " << part;
  }
}

}  // namespace cambium::testing
