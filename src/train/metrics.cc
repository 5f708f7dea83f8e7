#include "train/metrics.h"

#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cerrno>
#include <chrono>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <span>

#include "cambium/error.h"
#include "io/atomic_file.h"
#include "io/chart.h"
#include "io/json_lines.h"

namespace cambium {
namespace {

// CRC-32C (Castagnoli), as TFRecord wants it.
uint32_t Crc32c(std::string_view bytes) {
  static const std::array<uint32_t, 256> table = [] {
    std::array<uint32_t, 256> t{};
    for (uint32_t i = 0; i < 256; ++i) {
      uint32_t c = i;
      for (int bit = 0; bit < 8; ++bit) c = (c & 1) != 0 ? c >> 1 ^ 0x82F63B78u : c >> 1;
      t[i] = c;
    }
    return t;
  }();
  uint32_t crc = ~0u;
  for (const char byte : bytes) crc = table[(crc ^ static_cast<uint8_t>(byte)) & 0xFF] ^ crc >> 8;
  return ~crc;
}

template <class T>
void PutRaw(std::string& out, T value) {
  char bytes[sizeof(T)];
  std::memcpy(bytes, &value, sizeof(T));
  out.append(bytes, sizeof(T));
}

// TFRecord: length, masked checksum of the length, data, masked checksum of the data.
std::string Record(const std::string& data) {
  const auto masked = [](uint32_t crc) { return std::rotr(crc, 15) + 0xa282ead8u; };
  std::string out;
  PutRaw<uint64_t>(out, data.size());
  PutRaw<uint32_t>(out, masked(Crc32c(out)));
  out += data;
  PutRaw<uint32_t>(out, masked(Crc32c(data)));
  return out;
}

// Protocol buffers' wire format.
void PutVarint(std::string& out, uint64_t value) {
  for (; value >= 0x80; value >>= 7) out += static_cast<char>(value | 0x80);
  out += static_cast<char>(value);
}
void PutBytes(std::string& out, int field, std::string_view bytes) {
  PutVarint(out, static_cast<uint64_t>(field) << 3 | 2);
  PutVarint(out, bytes.size());
  out += bytes;
}

double WallTime() { return std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count(); }

std::string EventStart(double wall_time) {
  std::string event = "\x09";  // Event.wall_time = 1, double
  PutRaw(event, wall_time);
  return event;
}

// NaN and infinities have no JSON numbers.
nlohmann::ordered_json Number(double value) {
  return std::isfinite(value) ? nlohmann::ordered_json(value) : nlohmann::ordered_json(nullptr);
}

std::FILE* Open(const std::string& path, const char* mode) {
  std::FILE* const file = std::fopen(path.c_str(), mode);
  if (file == nullptr) Fail(ErrorCode::kResource, path, ": cannot write: ", std::strerror(errno));
  return file;
}

void Append(std::FILE* file, const std::string& bytes, const std::string& what) {
  if (std::fwrite(bytes.data(), 1, bytes.size(), file) != bytes.size() || std::fflush(file) != 0) {
    Fail(ErrorCode::kResource, what, ": cannot write: ", std::strerror(errno));
  }
}

}  // namespace

std::string TensorBoardHeader(double wall_time) {
  std::string event = EventStart(wall_time);
  PutBytes(event, 3, "brain.Event:2");  // Event.file_version
  return Record(event);
}

std::string TensorBoardRecord(double wall_time, int64_t step, std::span<const std::pair<std::string, float>> scalars) {
  std::string summary;
  for (const auto& [tag, value] : scalars) {
    std::string entry;
    PutBytes(entry, 1, tag);  // Summary.Value.tag
    entry += '\x15';          // Summary.Value.simple_value = 2, float
    PutRaw(entry, value);
    PutBytes(summary, 1, entry);
  }
  std::string event = EventStart(wall_time);
  event += '\x10';  // Event.step = 2, varint
  PutVarint(event, static_cast<uint64_t>(step));
  PutBytes(event, 5, summary);
  return Record(event);
}

std::string MetricsLog::Earlier(const std::string& path, int64_t step) {
  std::string kept;
  if (!std::filesystem::exists(path)) return kept;
  JsonLines lines(path);
  for (bool more = true; more;) {
    try {
      more = lines.Next();
    } catch (const Error&) {  // a line that was cut short
      continue;
    }
    const nlohmann::ordered_json& entry = lines.record();
    const auto number = [&](const char* key) {
      const auto found = entry.find(key);
      return found != entry.end() && found->is_number() ? found->get<double>() : std::nan("");
    };
    if (!more || !entry.is_object() || !(number("step") <= static_cast<double>(step))) continue;
    kept += entry.dump() + "\n";
    if (!std::isnan(number("loss"))) train_.emplace_back(number("step"), number("loss"));
    if (!std::isnan(number("valid_loss"))) valid_.emplace_back(number("step"), number("valid_loss"));
  }
  return kept;
}

MetricsLog::MetricsLog(std::string directory, int64_t step) : directory_(std::move(directory)) {
  const std::string path = directory_ + "/metrics.jsonl";
  std::string kept;
  if (step > 0) {
    kept = Earlier(path, step);
  }
  AtomicFile rewritten(path);
  rewritten.Write(kept);
  rewritten.Commit();
  lines_ = Open(path, "ab");
  const double now = WallTime();
  const std::string events = fmt::format("{}/events.out.tfevents.{:.0f}.{}", directory_, now, getpid());
  events_ = Open(events, "ab");
  Append(events_, TensorBoardHeader(now), events);
}

MetricsLog::~MetricsLog() {
  if (lines_ != nullptr) std::fclose(lines_);
  if (events_ != nullptr) std::fclose(events_);
}

void MetricsLog::Line(const nlohmann::ordered_json& line) {
  Append(lines_, line.dump() + "\n", directory_ + "/metrics.jsonl");
}

void MetricsLog::Event(int64_t step, std::initializer_list<std::pair<const char*, double>> scalars) {
  std::vector<std::pair<std::string, float>> values;
  for (const auto& [tag, value] : scalars) values.emplace_back(tag, static_cast<float>(value));
  Append(events_, TensorBoardRecord(WallTime(), step, values), directory_ + ": event file");
}

void MetricsLog::Add(const StepReport& m) {
  nlohmann::ordered_json line = {{"step", m.step},
                                 {"loss", Number(m.loss)},
                                 {"grad_norm", Number(m.grad_norm)},
                                 {"lr", m.lr},
                                 {"tokens", m.tokens},
                                 {"tokens_per_s", std::round(m.tokens_per_s * 10) / 10},
                                 {"loss_scale", m.loss_scale}};
  if (m.heads_loss) line["heads_loss"] = Number(*m.heads_loss);
  if (m.skipped) line["skipped"] = true;
  Line(line);
  Event(m.step, {{"train/loss", m.loss},
                 {"train/grad_norm", m.grad_norm},
                 {"train/lr", m.lr},
                 {"train/tokens_per_s", m.tokens_per_s},
                 {"train/loss_scale", m.loss_scale}});
  if (std::isfinite(m.loss)) train_.emplace_back(static_cast<double>(m.step), m.loss);
}

void MetricsLog::AddValidation(int64_t step, double loss) {
  Line({{"step", step}, {"valid_loss", Number(loss)}});
  Event(step, {{"valid/loss", loss}});
  if (std::isfinite(loss)) valid_.emplace_back(static_cast<double>(step), loss);
}

void MetricsLog::WritePlot() const {
  AtomicFile file(directory_ + "/loss.svg");
  file.Write(LossPlotSvg(train_, valid_));
  file.Commit();
}

std::string LossPlotSvg(std::span<const std::pair<double, double>> train,
                        std::span<const std::pair<double, double>> valid) {
  std::vector<std::pair<double, double>> smooth;
  for (const auto& [x, y] : train) smooth.emplace_back(x, smooth.empty() ? y : 0.9 * smooth.back().second + 0.1 * y);
  Chart chart = {
      "step",
      {{"", "#9ecae1", 1, false, {train.begin(), train.end()}}, {"training loss", "#2171b5", 2, false, smooth}}};
  if (!valid.empty()) {
    chart.series.push_back({"validation loss", "#d94801", 2, true, {valid.begin(), valid.end()}});
  }
  return ChartSvg({&chart, 1});
}

}  // namespace cambium
