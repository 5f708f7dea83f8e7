#include "io/zip.h"

#include <zlib.h>

#include <algorithm>
#include <cstring>

#include "cambium/error.h"

namespace cambium {
namespace {

constexpr uint32_t kLocal = 0x04034b50, kCentral = 0x02014b50, kEnd = 0x06054b50;
constexpr size_t kLocalBytes = 30, kCentralBytes = 46, kEndBytes = 22;

uint32_t Little(std::span<const uint8_t> bytes, size_t at, size_t count) {
  uint32_t value = 0;
  for (size_t i = 0; i < count; ++i) value |= uint32_t{bytes[at + i]} << (8 * i);
  return value;
}
uint32_t U32(std::span<const uint8_t> bytes, size_t at) { return Little(bytes, at, 4); }
uint16_t U16(std::span<const uint8_t> bytes, size_t at) { return static_cast<uint16_t>(Little(bytes, at, 2)); }

// zlib's state of a raw deflate stream.
struct Inflater {
  z_stream stream{};
  bool ready = inflateInit2(&stream, -MAX_WBITS) == Z_OK;
  ~Inflater() {
    if (ready) inflateEnd(&stream);
  }
};

}  // namespace

std::span<const uint8_t> ZipFile::At(uint64_t offset, uint64_t count, const char* what) const {
  const std::span<const uint8_t> bytes = file_.bytes();
  if (offset > bytes.size() || count > bytes.size() - offset) {
    Fail(ErrorCode::kData, file_.path(), ": ", what, " of ", count, " bytes at ", offset, " is beyond the file's ",
         bytes.size());
  }
  return bytes.subspan(offset, count);
}

ZipFile::ZipFile(const std::string& path) : file_(path) {
  const std::span<const uint8_t> bytes = file_.bytes();
  // The end record is last, behind it a comment of at most 65535 bytes.
  if (bytes.size() < kEndBytes) Fail(ErrorCode::kData, path, ": is no zip archive");
  size_t end = bytes.size() - kEndBytes;
  const size_t first = end > 65535 ? end - 65535 : 0;
  while (end > first && U32(bytes, end) != kEnd) --end;
  if (U32(bytes, end) != kEnd) Fail(ErrorCode::kData, path, ": is no zip archive");
  const uint16_t count = U16(bytes, end + 10);
  uint64_t at = U32(bytes, end + 16);
  if (count == 0xffff || at == 0xffffffff) Fail(ErrorCode::kData, path, ": is a zip64 archive, which is not read");
  for (int i = 0; i < count; ++i) {
    const auto fixed = At(at, kCentralBytes, "an entry of the directory");
    if (U32(fixed, 0) != kCentral) Fail(ErrorCode::kData, path, ": entry ", i, " of the directory is damaged");
    const uint16_t name = U16(fixed, 28);
    const auto text = At(at + kCentralBytes, name, "a name");
    Member member{
        {text.begin(), text.end()}, U16(fixed, 10), U32(fixed, 16), U32(fixed, 20), U32(fixed, 24), U32(fixed, 42)};
    if ((U16(fixed, 8) & 1) != 0) Fail(ErrorCode::kData, path, ": ", member.name, " is encrypted");
    members_.push_back(std::move(member));
    at += kCentralBytes + name + U16(fixed, 30) + U16(fixed, 32);
  }
}

const ZipFile::Member* ZipFile::Find(std::string_view name) const {
  const auto found = std::ranges::find(members_, name, &Member::name);
  return found == members_.end() ? nullptr : &*found;
}

void ZipFile::Read(const Member& member, const std::function<void(std::span<const uint8_t>)>& use) const {
  const auto wrong = [&](const auto&... parts) {
    Fail(ErrorCode::kData, file_.path(), ": ", member.name, ": ", parts...);
  };
  const auto local = At(member.header, kLocalBytes, "a header");
  if (U32(local, 0) != kLocal) wrong("its header is damaged");
  const uint64_t begin = member.header + kLocalBytes + U16(local, 26) + U16(local, 28);
  const auto stored = At(begin, member.stored, member.name.c_str());
  uint64_t size = 0;
  uLong crc = crc32(0, nullptr, 0);
  const auto give = [&](std::span<const uint8_t> piece) {
    size += piece.size();
    if (size > member.size) wrong("has more than the ", member.size, " bytes that it should");
    crc = crc32_z(crc, piece.data(), piece.size());
    use(piece);
  };
  if (member.method == 0) {
    give(stored);
  } else if (member.method == 8) {
    Inflater inflater;
    if (!inflater.ready) Fail(ErrorCode::kResource, file_.path(), ": no memory to inflate");
    std::vector<uint8_t> piece(size_t{1} << 16);
    inflater.stream.next_in = const_cast<Bytef*>(stored.data());
    inflater.stream.avail_in = static_cast<uInt>(stored.size());
    int state = Z_OK;
    while (state == Z_OK) {
      inflater.stream.next_out = piece.data();
      inflater.stream.avail_out = static_cast<uInt>(piece.size());
      state = inflate(&inflater.stream, Z_NO_FLUSH);
      give(std::span(piece).first(piece.size() - inflater.stream.avail_out));
    }
    if (state != Z_STREAM_END)
      wrong("is damaged: ", inflater.stream.msg != nullptr ? inflater.stream.msg : "it ends early");
  } else {
    wrong("is compressed by method ", member.method, ", expected 0 or 8");
  }
  if (size != member.size) wrong("has ", size, " bytes, expected ", member.size);
  if (crc != member.crc) wrong("its CRC is ", crc, ", expected ", member.crc);
}

std::string ZipFile::ReadText(const Member& member, uint64_t most) const {
  if (member.size > most) {
    Fail(ErrorCode::kData, file_.path(), ": ", member.name, " has ", member.size, " bytes, the limit is ", most);
  }
  std::string text;
  Read(member,
       [&](std::span<const uint8_t> piece) { text.append(reinterpret_cast<const char*>(piece.data()), piece.size()); });
  return text;
}

}  // namespace cambium
