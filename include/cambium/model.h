#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "cambium/error.h"

namespace cambium {

struct Message {
  std::string role, content;
};

struct ChatOptions {
  bool add_generation_prompt = true;
  std::string tools;      // a JSON list; empty: none
  std::string variables;  // a JSON object of more variables of the template, such as enable_thinking; empty: none
};

struct ModelInfo {
  std::string path;    // resolved: the file or directory
  std::string family;  // "llama", "qwen2", ...
  int64_t layers = 0, hidden = 0;
  int64_t vocab = 0;    // rows of the embedding: token ids are below it
  int64_t context = 0;  // positions that the model was made for
  int64_t weight_bytes = 0;
  int threads = 0;
  double load_ms = 0;
  std::string Describe() const;  // one line for people: family, sizes, storage
};

// A loaded model with its tokenizer. A handle: copies are cheap and share one model, which lives as long as the last of
// them. All members may be called from any thread. Every call may throw Error.
//
// The first file that is mapped installs a handler of SIGBUS for the whole process, which makes a file that is
// truncated while it is read an Error. Faults at other addresses go to the handler that was there before. A host with a
// handler of its own (a JVM, Python's faulthandler) installs it first, or passes on what it does not know. Nothing else
// of the process is changed: no signal but that one, no locale, no umask, no environment.
class Model {
 public:
  // model: a path (.gguf file or Hugging Face directory), a name in the cache, or an alias such as "smollm2".
  // threads: 0 = every core that this process may use.
  static Model Load(const std::string& model, int threads = 0);

  const ModelInfo& info() const;

  // special: parse special tokens in the text; otherwise they stay plain text. BOS is added if the model wants it.
  std::vector<int32_t> Tokenize(std::string_view text, bool special = false, bool add_bos = true) const;
  std::string Detokenize(std::span<const int32_t> ids) const;
  std::string Piece(int32_t id) const;  // the bytes that one id adds to a text
  bool IsEnd(int32_t id) const;         // whether the model ends its texts with it

  // The model's chat template over the messages; kUsage where it has none, or refuses them.
  std::string ApplyTemplate(std::span<const Message> messages, const ChatOptions& options = {}) const;
  // The same as ids: control tokens are read from what the template wrote; those spelled in a message stay plain text.
  std::vector<int32_t> TokenizeChat(std::span<const Message> messages, const ChatOptions& options = {}) const;
  // `messages`: a JSON list of objects as templates take them, with tool calls and whatever else the template reads.
  std::string ApplyTemplate(std::string_view messages, const ChatOptions& options = {}) const;
  std::vector<int32_t> TokenizeChat(std::string_view messages, const ChatOptions& options = {}) const;

  // Whether the template, of dialogues with tools or without, looks at a variable or a field of this name at all.
  bool TemplateReads(std::string_view name, bool tools = false) const;

  struct Impl;
  const std::shared_ptr<Impl>& shared() const { return impl_; }  // opaque outside the library

 private:
  explicit Model(std::shared_ptr<Impl> impl) : impl_(std::move(impl)) {}
  std::shared_ptr<Impl> impl_;
};

// A trained addition that was loaded onto a model: a LoRA, a prefix, an adapter, draft heads, or a bundle of a
// fine-tune and its heads. A handle as Model is; its scale belongs to the request that uses it. Requests under way keep
// it alive.
class Adapter {
 public:
  // A file or directory in the formats of docs/grafts.md. Waits for a pass under way on the model.
  static Adapter Load(const Model& model, const std::string& path);

  const std::string& path() const;
  std::vector<std::string> kinds() const;  // "lora", "prefix", "medusa", ...
  int64_t slots() const;                   // positions that it takes before every text

  struct Impl;
  explicit Adapter(std::shared_ptr<Impl> impl) : impl_(std::move(impl)) {}
  const std::shared_ptr<Impl>& shared() const { return impl_; }  // opaque outside the library

 private:
  std::shared_ptr<Impl> impl_;
};

}  // namespace cambium
