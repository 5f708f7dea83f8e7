#pragma once

#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <string>

#include "temp_folder.h"

namespace cambium {

// The tiny Llama of 96 tokens, with a tokenizer: the printable characters, the space, and an end token.
class TinyLlama {
 public:
  TinyLlama() {
    nlohmann::json vocab;
    for (int c = 33; c < 127; ++c) vocab[std::string(1, static_cast<char>(c))] = c - 33;
    vocab["\u0120"] = 94;
    vocab["<end>"] = 95;
    const nlohmann::json tokenizer = {
        {"added_tokens",
         {{{"id", 95},
           {"content", "<end>"},
           {"special", true},
           {"single_word", false},
           {"lstrip", false},
           {"rstrip", false},
           {"normalized", false}}}},
        {"normalizer", nullptr},
        {"pre_tokenizer",
         {{"type", "ByteLevel"}, {"add_prefix_space", false}, {"trim_offsets", true}, {"use_regex", true}}},
        {"decoder", {{"type", "ByteLevel"}}},
        {"model", {{"type", "BPE"}, {"vocab", vocab}, {"merges", nlohmann::json::array()}}}};
    std::filesystem::copy(std::string(CAMBIUM_TEST_DIR) + "/golden/families/llama", folder_.path(),
                          std::filesystem::copy_options::recursive);
    std::ofstream(folder_ / "tokenizer.json") << tokenizer.dump();
    std::ofstream(folder_ / "tokenizer_config.json") << R"({"eos_token": "<end>"})";
  }
  std::string path() const { return folder_.path(); }

 private:
  const TempFolder folder_;
};

}  // namespace cambium
