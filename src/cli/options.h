#pragma once

#include <CLI/CLI.hpp>
#include <cstdint>
#include <cstdio>
#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "base/check_range.h"
#include "cambium/cambium.h"

// What several verbs share: their common options, and how they print. Data goes to stdout, all else to stderr.
namespace cambium::cli {

// --json and --quiet: every verb takes them.
struct OutputFlags {
  bool json = false;   // one JSON document on stdout instead of text
  bool quiet = false;  // nothing on stderr but errors
};
void AddOutput(CLI::App& verb, OutputFlags& flags);

// kUsage where --threads are far more than the cores; more than the cores are warned of.
void CheckThreads(int threads);
// MODEL alone.
void AddModelName(CLI::App& verb, std::string& model);
// MODEL, and how it is loaded.
struct ModelFlags {
  std::string model;
  EngineOptions engine;
  std::string kv_type;
  ModelFlags() { engine.parallel = 1; }
};
void AddModel(CLI::App& verb, ModelFlags& flags);
// Loads, with a line on stderr while it takes time.
// kUsage for a model with an encoder, unless the verb can do with one.
Engine LoadModel(const ModelFlags& flags, const OutputFlags& output, bool encoder = false);

// --graft NAME[=SCALE].
// Fields of data that are passed over though they would change something.
void AddIgnoreFields(CLI::App& verb, std::vector<std::string>& fields);
void AddGrafts(CLI::App& verb, std::vector<std::string>& grafts);
// What they name, each file loaded once.
class Adapters {
 public:
  std::vector<AdapterUse> Load(const Model& model, const std::vector<std::string>& grafts);

 private:
  std::map<std::string, Adapter> loaded_;  // by path
};

// A text or ids: exactly one of -p, -f, - (standard input) and --ids.
struct InputFlags {
  std::string text, file, dash;
  std::vector<int32_t> ids;
  bool special = false;  // parse special tokens in the text
  CLI::Option* text_option = nullptr;
  CLI::Option* ids_option = nullptr;
};
void AddInput(CLI::App& verb, InputFlags& flags,
              const std::string& names = "-p,--prompt");  // names: of the text's option

// What they gave.
struct Input {
  std::string text;          // UTF-8, not empty; empty where ids were given
  std::vector<int32_t> ids;  // not empty only where they were given
  bool special = false;

  bool has_ids() const { return !ids.empty(); }
  // The ids given, or the text's; the engine checks ids against the vocabulary.
  std::vector<int32_t> Ids(const Model& model, bool add_bos = true) const;
};
// kUsage where there is not exactly one source, or the text is empty or not UTF-8.
Input ReadInput(const InputFlags& flags);

// Sampling and length, under llama.cpp's names.
struct GenerateFlags {
  Request request;
  std::vector<std::string> grafts;  // NAME or NAME=SCALE
  std::string verify = "match";
  std::vector<std::string> logit_bias;            // ID+BIAS or ID-BIAS
  int64_t seed = -1;                              // -1 = a new one each time
  GenerateFlags() { request.loop_guard = true; }  // people are at the command line
};
void AddGenerateOptions(CLI::App& verb, GenerateFlags& flags);
// The options, checked, without prompt and adapters; a seed of -1 is drawn from the system.
Request CheckedRequest(const GenerateFlags& flags);

// --beams and what belongs to it.
struct BeamFlags {
  BeamOptions beams;
  std::string early_stopping = "false";
  CLI::Option* option = nullptr;
};
void AddBeams(CLI::App& verb, BeamFlags& flags);
BeamOptions CheckedBeams(const CLI::App& verb, const BeamFlags& flags);

// Sets the options of `verb` that nobody gave from a TOML file whose keys are their long names; empty: no file.
void ApplyConfigFile(CLI::App& verb, const std::string& file);

// kUsage with the byte and its offset unless the text is UTF-8.
void CheckUtf8(std::string_view text, std::string_view name);

// Whether a file or a directory that holds something may be written over: with `yes`, or where somebody at a terminal
// says so; kUsage naming it otherwise.
void RequireOverwrite(const std::string& path, bool yes);
void AddYes(CLI::App& verb, bool& yes);

// Standard input, whole.
std::string ReadStdin();
// Writes to stdout at once.
void Write(std::string_view text);
// One line of JSON on stdout; bytes that are not UTF-8 become U+FFFD.
void WriteJson(const nlohmann::ordered_json& value);
// The bytes as a JSON string: "a\n".
std::string Quoted(std::string_view bytes);
// A line on stderr unless --quiet.
void Note(const OutputFlags& flags, std::string_view line);
// "[29 tokens, 165 a second; prompt 37 in 0.05 s]" on stderr, where that is a terminal, unless --quiet; and why the
// answer ended, where it did not end by itself.
void NoteEnd(const OutputFlags& flags, const Generation& generation, int64_t context);
// "next: cambium ...": what to try now, unless --quiet.
void Next(const OutputFlags& flags, std::string_view command);
// Whether the model has a chat template.
bool Chats(const Model& model);
// As a shell takes it for one word.
std::string Word(const std::string& text);
// As documented in docs/cli.md.
nlohmann::ordered_json ToJson(const Generation& generation);

bool IsTerminal(FILE* stream);
// Whether to colour what goes to `stream`: a terminal, TERM is not "dumb", and NO_COLOR is unset or empty.
bool UseColor(FILE* stream);

}  // namespace cambium::cli
