#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <nlohmann/json.hpp>
#include <set>
#include <string>

namespace cambium::cli {

// --jsonl IN -o OUT, --shard i/n.
struct RecordFlags {
  std::string input, output, shard = "0/1";
};

// Answers to the records of a file, one line each in the input's order, that can be stopped and begun again: what is in
// OUT already is not answered twice. A record that cannot be answered is a line of OUT.errors, {"line", "id", "error"}.
// OUT.settings.json keeps what the answers depend on besides their records.
//
// The shard i of n holds a run of records, so that the shards' files one after another are the unsharded one.
class RecordFile {
 public:
  using Json = nlohmann::ordered_json;

  // kUsage for a bad shard, and where OUT was begun with other settings (naming one); kData for an input that cannot be
  // read, or an OUT that does not belong to it; kRuntime where another process writes it.
  RecordFile(const RecordFlags& flags, const Json& settings);
  ~RecordFile();
  RecordFile(const RecordFile&) = delete;
  RecordFile& operator=(const RecordFile&) = delete;

  // Calls use(index, line, record, error) for each record of the shard that is not done: `error` is empty, or says why
  // the line is no record. Indices rise by one. False from `use` ends it.
  using Use = std::function<bool(int64_t index, int64_t line, const Json& record, const std::string& error)>;
  void ForEach(const Use& use);

  // The answer of the record `index`, or why it has none; written once those before it are.
  void Answer(int64_t index, const Json& answer);
  void Refuse(int64_t index, int64_t line, const Json& id, const std::string& error);

  int64_t total() const { return total_; }         // records of the shard
  int64_t done_before() const { return before_; }  // of these, by an earlier run
  int64_t written() const { return next_; }
  int64_t refused() const { return refused_; }

 private:
  struct Line {
    bool error;
    std::string text;
  };
  void Resume(const Json& settings);
  void Flush();

  RecordFlags flags_;
  int64_t first_ = 0, total_ = 0;  // the shard's records, counted over the whole input
  int64_t before_ = 0;             // done by earlier runs
  std::set<int64_t> failed_;       // lines of the input that OUT.errors names
  std::map<int64_t, Line> waiting_;
  int64_t next_ = 0;
  int64_t refused_ = 0;
  int out_ = -1, errors_ = -1;
};

// The record's own name: its "id" or "custom_id", else the number of its line.
nlohmann::ordered_json IdOf(const nlohmann::ordered_json& record, int64_t line);

}  // namespace cambium::cli
