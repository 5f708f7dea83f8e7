// The routes of the page, of the engine's state and of training, from outside.
#include <gtest/gtest.h>

#include <chrono>
#include <filesystem>
#include <fstream>
#include <string>
#include <thread>

#include "server_child.h"
#include "temp_folder.h"

namespace cambium {
namespace {

namespace fs = std::filesystem;

const std::string kAdmin = "Authorization: Bearer the-admin\r\n", kKey = "Authorization: Bearer the-key\r\n";

class PageRoutes : public testing::Test {
  void SetUp() override {
    if (DefaultTestModel().empty()) GTEST_SKIP() << "no model";
  }
};

// A server with keys and a directory of runs, which lies below one that is none of its business.
struct Served {
  TempFolder folder;
  std::string runs = folder / "runs";
  Child child;
  Served() : child((Prepare(), Options())) {}
  void Prepare() const {
    fs::create_directory(runs);
    std::ofstream(folder / "admin.key") << "the-admin\n";
    fs::create_directory(folder / "secret");
    std::ofstream(folder / "secret/metrics.jsonl") << "{\"step\":1,\"loss\":7}\n";
    fs::create_directory(runs + "/old");
    std::ofstream(runs + "/old/metrics.jsonl")
        << "{\"step\":1,\"loss\":2}\nno JSON\n"
        << std::string(50000, '[') << std::string(50000, ']') << "\n{\"step\":2,\"loss\":1.5,\"lr\":0.1}\n{\"step\":3";
    fs::create_directory_symlink(folder / "secret", runs + "/link");
  }
  std::vector<std::string> Options() const {
    return {"--runs", runs, "--api-key", "the-key", "--admin-key-file", folder / "admin.key"};
  }
};
const Served& Shared() {
  static const Served served;
  return served;
}

Child::Answer Delete(const Child& child, const std::string& path, const std::string& fields = "") {
  return child.Raw(Child::Head("DELETE " + path, fields) + "\r\n");
}

TEST_F(PageRoutes, ThePageNeedsNoKeyAndHoldsItsPolicy) {
  const Child& child = Shared().child;
  const Child::Answer index = child.Get("/");
  EXPECT_EQ(index.status, 200);
  for (const char* field :
       {"script-src 'self'", "trusted-types 'none'", "X-Content-Type-Options: nosniff", "Referrer-Policy: no-referrer",
        "Cross-Origin-Opener-Policy: same-origin", "Cache-Control: no-cache", "text/html"}) {
    EXPECT_NE(index.head.find(field), index.head.npos) << field;
  }
  const size_t at = index.body.find("/page/");
  ASSERT_NE(at, index.body.npos);
  EXPECT_EQ(index.body.find("@VERSION@"), index.body.npos);
  const std::string folder = index.body.substr(at, index.body.find('/', at + 6) - at + 1);
  for (const char* name : {"main.js", "app.css", "icon.svg"}) {
    const Child::Answer file = child.Get(folder + name);
    EXPECT_EQ(file.status, 200) << name;
    EXPECT_NE(file.head.find("immutable"), file.head.npos) << name;
    EXPECT_NE(file.head.find("Content-Security-Policy"), file.head.npos) << name;
    std::ifstream source(std::string(CAMBIUM_TEST_DIR "/../web/") + name);
    EXPECT_EQ(file.body, std::string(std::istreambuf_iterator<char>(source), {})) << name;
  }
  EXPECT_EQ(child.Get("/favicon.ico").status, 200);
  const size_t tag = index.head.find("ETag: ") + 6;
  const std::string etag = index.head.substr(tag, index.head.find("\r\n", tag) - tag);
  const Child::Answer same = child.Get("/", "If-None-Match: " + etag + "\r\n");
  EXPECT_EQ(same.status, 304);
  EXPECT_TRUE(same.body.empty());
  const Child::Answer head = child.Raw(Child::Head("HEAD /") + "\r\n");
  EXPECT_EQ(head.status, 200);
  EXPECT_TRUE(head.body.empty());
  for (const std::string& path : {folder + "none.js", folder + "../../../etc/passwd", folder + "%2e%2e/x",
                                  std::string("/page/000000000000/main.js"), std::string("/page/main.js"), folder}) {
    EXPECT_EQ(child.Get(path).status, 404) << path;
  }
  const Child::Answer post = child.Raw(Child::PostBytes("/", "{}", kKey));
  EXPECT_EQ(post.status, 405);
  EXPECT_NE(post.head.find("Allow: GET, HEAD\r\n"), post.head.npos);
  EXPECT_EQ(child.Raw("GET / HTTP/1.1\r\nHost: evil.example\r\nConnection: close\r\n\r\n").status, 403);
}

TEST_F(PageRoutes, AMethodThatIsNotTakenIsToldTheOthers) {
  const Child& child = Shared().child;
  EXPECT_NE(Delete(child, "/v1/training/runs", kKey).head.find("Allow: GET, HEAD, POST\r\n"), std::string::npos);
  const Child::Answer post = child.Post("/v1/training/runs/old", json::object(), kKey);
  EXPECT_EQ(post.status, 405);
  EXPECT_NE(post.head.find("Allow: GET, HEAD, DELETE\r\n"), post.head.npos);
}

TEST_F(PageRoutes, TheEngineTellsWhatItDid) {
  const Child& child = Shared().child;
  EXPECT_EQ(child.Get("/v1/engine").status, 401);
  const std::string text = "one two three one two three one two three one two";
  EXPECT_EQ(child.Post("/v1/completions", Asked(text, 24, {{"draft", "ngram"}}), kKey).status, 200);
  const json state = child.Get("/v1/engine", kKey).Json();
  EXPECT_EQ(state["running"], 0);
  EXPECT_TRUE(state["streams"].empty());
  EXPECT_GT(state["passes"].size(), 1u);
  int64_t rows = 0, number = 0;
  for (const json& pass : state["passes"]) {
    rows += pass["rows"].get<int64_t>();
    EXPECT_GT(pass["number"].get<int64_t>(), number);
    number = pass["number"];
  }
  EXPECT_EQ(state["rows"], rows);
  ASSERT_EQ(state["drafts"]["drafters"].size(), 1u);
  const json& by = state["drafts"]["drafters"][0];
  EXPECT_EQ(by["name"], "ngram");
  EXPECT_GT(by["drafted"].get<int64_t>(), 0);
  EXPECT_GE(by["drafted"].get<int64_t>(), by["accepted"].get<int64_t>());
  EXPECT_FALSE(state["drafts"]["pass_costs"].empty());
  EXPECT_TRUE(child.Get("/v1/engine?after=" + std::to_string(number), kKey).Json()["passes"].empty());
  for (const char* query : {"?after=x", "?after=-1", "?after=99999999999999999999"}) {
    EXPECT_EQ(child.Get(std::string("/v1/engine") + query, kKey).status, 400) << query;
  }
}

TEST_F(PageRoutes, ATraceTellsEveryTokenAndWhatWasRefused) {
  json body = Asked("one two three one two three one two three one two", 24, {{"draft", "ngram"}, {"stream", true}});
  body["cambium"]["trace"] = true;
  std::string text, spelled;
  int64_t passes = 0, drafted = 0, kept = 0;
  json report;
  const json events = Events(Shared().child.Post("/v1/completions", body, kKey).body);
  for (const json& event : events) {
    for (const json& choice : event["choices"]) text += choice["text"];
    const json own = event.value("cambium", json::object());
    for (const json& note : own.value("trace", json::array())) {
      spelled += note.value("text", "");
      if (!note.contains("tree")) continue;
      ++passes;
      EXPECT_EQ(note["tree"].size(), note["drafted"]);
      int64_t here = 0;
      for (size_t i = 0; i < note["tree"].size(); ++i) {
        const json& node = note["tree"][i];
        EXPECT_LT(node["parent"].get<int64_t>(), static_cast<int64_t>(i));
        EXPECT_EQ(node["drafter"], 0);
        here += node["kept"].get<bool>();
      }
      EXPECT_EQ(here, note["kept"]);
      drafted += note["drafted"].get<int64_t>();
      kept += here;
    }
    if (own.contains("report")) {
      report = own["report"];
      EXPECT_EQ(own["drafters"], json::array({"ngram"}));
    }
  }
  EXPECT_FALSE(text.empty());
  EXPECT_EQ(spelled, text);
  EXPECT_GT(passes, 0);
  EXPECT_EQ(report["drafted"], drafted);
  EXPECT_EQ(report["accepted"], kept);
}

TEST_F(PageRoutes, RunsAreShownAndNothingBesideThem) {
  const Child& child = Shared().child;
  const json list = child.Get("/v1/training/runs", kKey).Json()["runs"];
  ASSERT_EQ(list.size(), 1u) << list;
  EXPECT_EQ(list[0]["name"], "old");
  EXPECT_EQ(list[0]["state"], "stopped");
  EXPECT_EQ(list[0]["last"]["loss"], 1.5);
  const json run = child.Get("/v1/training/runs/old", kKey).Json();
  EXPECT_EQ(run["metrics"].size(), 2u);  // the third line is not whole yet
  const int64_t next = run["next"];
  EXPECT_TRUE(child.Get("/v1/training/runs/old?after=" + std::to_string(next), kKey).Json()["metrics"].empty());
  EXPECT_EQ(child.Get("/v1/training/runs/old?after=1000000", kKey).Json()["metrics"].size(), 2u);
  for (const char* name : {"link", "..", ".", "../secret", "%2e%2e", "old/", "none", ".hidden", "-x"}) {
    EXPECT_EQ(child.Get(std::string("/v1/training/runs/") + name, kKey).status, 404) << name;
  }
  EXPECT_EQ(child.Get("/v1/training/runs").status, 401);
  const Child without;
  EXPECT_EQ(without.Get("/v1/training/runs").status, 403);
  EXPECT_EQ(without.Post("/v1/training/runs", {{"name", "x"}}).status, 403);
}

TEST_F(PageRoutes, TrainingIsTheAdminsAndRefusesByName) {
  const Child& child = Shared().child;
  const json good = {{"name", "x"}, {"data", "{\"text\":\"a\"}\n"}};
  EXPECT_EQ(child.Post("/v1/training/runs", good).status, 401);
  EXPECT_EQ(child.Post("/v1/training/runs", good, kKey).status, 401);
  EXPECT_EQ(child.Post("/v1/training/plan", good, kKey).status, 401);
  EXPECT_EQ(Delete(child, "/v1/training/runs/old", kKey).status, 401);
  EXPECT_EQ(Delete(child, "/v1/training/runs/old", kAdmin).status, 409);
  EXPECT_EQ(Delete(child, "/v1/training/runs/none", kAdmin).status, 404);
  struct Bad {
    json more;
    const char* named;
  };
  const Bad bads[] = {{{{"name", "../x"}}, "name"},
                      {{{"name", ".x"}}, "name"},
                      {{{"name", "a/b"}}, "name"},
                      {{{"name", std::string(65, 'a')}}, "name"},
                      {{{"name", nullptr}}, "name"},
                      {{{"data", ""}}, "data"},
                      {{{"data", 7}}, "data"},
                      {{{"graft", "full"}}, "graft"},
                      {{{"graft", "lora, ia3"}}, "lora"},
                      {{{"rank", 0}}, "rank"},
                      {{{"rank", 1.5}}, "rank"},
                      {{{"lr", "fast"}}, "lr"},
                      {{{"epochs", -1}}, "epochs"},
                      {{{"schedule", "--yes"}}, "schedule"},
                      {{{"output", "/tmp/x"}}, "output"},
                      {{{"pack", 1}}, "pack"}};
  for (const Bad& bad : bads) {
    json body = good;
    body.update(bad.more);
    const Child::Answer answer = child.Post("/v1/training/runs", body, kAdmin);
    EXPECT_EQ(answer.status, 400) << bad.more;
    EXPECT_NE(answer.Json()["error"]["message"].get<std::string>().find(bad.named), std::string::npos) << answer.body;
  }
  EXPECT_EQ(child.Post("/v1/training/runs", {{"name", "old"}, {"data", "x"}}, kAdmin).status, 409);
  EXPECT_EQ(child.Get("/v1/training/runs", kKey).Json()["runs"].size(), 1u);
  const Child::Answer plan = child.Post("/v1/training/plan", {{"data", "{\"text\":"}}, kAdmin);
  EXPECT_EQ(plan.status, 400);
  EXPECT_NE(plan.body.find("line 1"), plan.body.npos) << plan.body;
  EXPECT_EQ(plan.body.find(Shared().runs), plan.body.npos) << "a path of this machine";
}

TEST_F(PageRoutes, ARunIsStartedFollowedLoadedAndAnotherStopped) {
  const Served served;
  const Child& child = served.child;
  const std::string line =
      R"({"messages":[{"role":"user","content":"What?"},{"role":"assistant","content":"A tree."}]})"
      "\n";
  json body = {{"name", "trees"}, {"data", line + line}, {"steps", 2}, {"seq_len", 64}, {"batch_size", 1}};
  EXPECT_EQ(child.Post("/v1/training/runs", body, kAdmin).status, 201);
  EXPECT_EQ(child.Post("/v1/training/runs", body, kAdmin).status, 409);
  EXPECT_EQ(child.Post("/v1/training/plan", {{"data", line}}, kAdmin).status, 409);
  const auto wait = [&](const std::string& name, const auto& is) {
    json run;
    for (int i = 0; i < 3000; ++i) {
      run = child.Get("/v1/training/runs/" + name, kKey).Json();
      if (is(run)) break;
      std::this_thread::sleep_for(std::chrono::milliseconds(100));
    }
    return run;
  };
  const json run = wait("trees", [](const json& r) { return r["state"] != "running"; });
  EXPECT_EQ(run["state"], "done") << run["log"];
  EXPECT_EQ(run["metrics"].size(), 2u);
  EXPECT_EQ(run["plan"]["steps"], 2);
  EXPECT_EQ(run["load_path"], "trees");
  EXPECT_EQ(
      child.Post("/v1/load_lora_adapter", {{"lora_name", "trees"}, {"lora_path", run["load_path"]}}, kAdmin).status,
      200);
  EXPECT_EQ(child.Post("/v1/completions", Asked("a", 2, {{"model", "trees"}}), kKey).status, 200);
  body["name"] = "long";
  body["steps"] = 1000000;
  EXPECT_EQ(child.Post("/v1/training/runs", body, kAdmin).status, 201);
  const json live = wait("long", [](const json& r) { return !r["metrics"].empty() || r["state"] != "running"; });
  EXPECT_EQ(live["state"], "running") << live["log"];
  EXPECT_GT(live["memory"]["now"].get<int64_t>(), 1 << 20);
  EXPECT_EQ(child.Get("/health").status, 200);
  EXPECT_EQ(Delete(child, "/v1/training/runs/long", kAdmin).status, 200);
  EXPECT_EQ(wait("long", [](const json& r) { return r["state"] != "running" && r["state"] != "stopping"; })["state"],
            "stopped");
}

}  // namespace
}  // namespace cambium
