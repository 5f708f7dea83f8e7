#include "cli/record_file.h"

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <cerrno>
#include <charconv>
#include <cstring>
#include <filesystem>

#include "io/atomic_file.h"
#include "io/json.h"
#include "io/json_lines.h"

namespace cambium::cli {
namespace {

namespace fs = std::filesystem;

std::pair<int64_t, int64_t> ParseShard(const std::string& text) {
  int64_t index = 0, count = 0;
  const char* const end = text.data() + text.size();
  const auto first = std::from_chars(text.data(), end, index);
  const bool cut = first.ec == std::errc() && first.ptr != end && *first.ptr == '/';
  const auto second = cut ? std::from_chars(first.ptr + 1, end, count) : first;
  if (!cut || second.ec != std::errc() || second.ptr != end || index < 0 || index >= count) {
    Fail(ErrorCode::kUsage, "--shard: ", text, " is not i/n with 0 <= i < n");
  }
  return {index, count};
}

int OpenToAppend(const std::string& path) {
  const int descriptor = open(path.c_str(), O_RDWR | O_CREAT | O_APPEND | O_CLOEXEC, 0666);
  if (descriptor < 0) Fail(ErrorCode::kResource, path, ": cannot be opened: ", std::strerror(errno));
  return descriptor;
}

// The whole lines of a file; a last one that was cut off is removed from it.
std::vector<std::string> WholeLines(const std::string& path, int descriptor) {
  std::string text = ReadTextFile(path, size_t{64} << 30);
  const size_t whole = text.rfind('\n') + 1;  // npos + 1 is 0
  if (whole != text.size() && ftruncate(descriptor, static_cast<off_t>(whole)) != 0) {
    Fail(ErrorCode::kResource, path, ": ", std::strerror(errno));
  }
  std::vector<std::string> lines;
  for (size_t at = 0; at < whole;) {
    const size_t end = text.find('\n', at);
    lines.push_back(text.substr(at, end - at));
    at = end + 1;
  }
  return lines;
}

void WriteAll(int descriptor, const std::string& path, std::string_view text) {
  while (!text.empty()) {
    const ssize_t count = write(descriptor, text.data(), text.size());
    if (count < 0 && errno == EINTR) continue;
    if (count <= 0) Fail(ErrorCode::kResource, path, ": ", std::strerror(errno));
    text.remove_prefix(static_cast<size_t>(count));
  }
}

std::string Dumped(const nlohmann::ordered_json& value) {
  return value.dump(-1, ' ', false, nlohmann::ordered_json::error_handler_t::replace) + "\n";
}

}  // namespace

nlohmann::ordered_json IdOf(const nlohmann::ordered_json& record, int64_t line) {
  if (record.is_object()) {
    for (const char* key : {"id", "custom_id"}) {
      if (const auto found = record.find(key); found != record.end() && !found->is_null()) return *found;
    }
  }
  return line;
}

RecordFile::RecordFile(const RecordFlags& flags, const Json& settings) : flags_(flags) {
  const auto [index, count] = ParseShard(flags.shard);
  if (flags.output.empty()) Fail(ErrorCode::kUsage, "--jsonl: -o FILE is missing");
  std::error_code same;
  if (fs::equivalent(flags.input, flags.output, same))
    Fail(ErrorCode::kUsage, "-o ", flags.output, " is the input itself");
  int64_t records = 0;
  total_ = std::numeric_limits<int64_t>::max();
  ForEach([&](int64_t, int64_t, const Json&, const std::string&) { return ++records > 0; });
  first_ = records * index / count;
  total_ = records * (index + 1) / count - first_;
  out_ = OpenToAppend(flags.output);
  if (flock(out_, LOCK_EX | LOCK_NB) != 0) {
    close(out_);
    Fail(ErrorCode::kRuntime, flags.output, ": another process is writing it");
  }
  try {
    errors_ = OpenToAppend(flags.output + ".errors");
    Resume(settings);
  } catch (...) {
    if (errors_ >= 0) close(errors_);
    close(out_);
    throw;
  }
}

RecordFile::~RecordFile() {
  const std::string errors = flags_.output + ".errors";
  std::error_code ignored;
  if (lseek(errors_, 0, SEEK_END) == 0) fs::remove(errors, ignored);
  close(errors_);
  close(out_);
}

void RecordFile::ForEach(const Use& use) {
  JsonLines lines(flags_.input);
  const Json none;
  for (int64_t at = 0;; ++at) {
    std::string error;
    try {
      if (!lines.Next()) return;
    } catch (const Error& bad) {
      error = bad.what();
    }
    if (at < first_ + before_) continue;
    if (at >= first_ + total_) return;
    if (!use(at - first_, lines.line(), error.empty() ? lines.record() : none, error)) return;
  }
}

// Finds what earlier runs did: the answers in OUT are those of the first records that OUT.errors does not name.
void RecordFile::Resume(const Json& settings) {
  const std::string settings_path = flags_.output + ".settings.json";
  const std::vector<std::string> answered = WholeLines(flags_.output, out_);
  for (const std::string& line : WholeLines(flags_.output + ".errors", errors_)) {
    failed_.insert(ParseOrderedJson(line, flags_.output + ".errors").value("line", int64_t{0}));
  }
  if (!answered.empty() || !failed_.empty()) {
    if (!fs::exists(settings_path)) {
      Fail(ErrorCode::kUsage, flags_.output, ": holds answers, but ", settings_path,
           " is missing, which says how they were made; move it away");
    }
    const Json before = ParseOrderedJson(ReadTextFile(settings_path), settings_path);
    for (const auto& [key, value] : settings.items()) {
      if (before.value(key, Json()) != value) {
        Fail(ErrorCode::kUsage, flags_.output, ": was begun with ", key, " ", before.value(key, Json()).dump(),
             ", now it is ", value.dump(), "; give the same options, or another -o");
      }
    }
  } else {
    AtomicFile file(settings_path);
    file.Write(settings.dump(2) + "\n");
    file.Commit();
  }
  size_t matched = 0;
  int64_t done = 0;
  if (!answered.empty() || !failed_.empty()) {
    ForEach([&](int64_t index, int64_t line, const Json& record, const std::string&) {
      if (!failed_.contains(line)) {
        if (matched == answered.size()) return false;
        const Json answer = ParseOrderedJson(answered[matched], flags_.output);
        if (answer.value("id", Json()) != IdOf(record, line)) {
          Fail(ErrorCode::kData, flags_.output, ": line ", matched + 1, " answers ", answer.value("id", Json()).dump(),
               ", but the input's line ", line, " is ", IdOf(record, line).dump(), "; it belongs to another input");
        }
        ++matched;
      }
      done = index + 1;
      return true;
    });
  }
  if (matched < answered.size()) {
    Fail(ErrorCode::kData, flags_.output, ": holds ", answered.size(), " answers, the input has records for ", matched);
  }
  before_ = next_ = done;
}

void RecordFile::Answer(int64_t index, const Json& answer) {
  waiting_[index] = {false, Dumped(answer)};
  Flush();
}

void RecordFile::Refuse(int64_t index, int64_t line, const Json& id, const std::string& error) {
  ++refused_;
  const bool known = failed_.contains(line);  // said by an earlier run
  waiting_[index] = {true, known ? "" : Dumped({{"line", line}, {"id", id}, {"error", error}})};
  Flush();
}

void RecordFile::Flush() {
  while (!waiting_.empty() && waiting_.begin()->first == next_) {
    const Line& line = waiting_.begin()->second;
    WriteAll(line.error ? errors_ : out_, flags_.output, line.text);
    waiting_.erase(waiting_.begin());
    ++next_;
  }
}

}  // namespace cambium::cli
