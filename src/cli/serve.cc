#include <fmt/format.h>
#include <sys/stat.h>

#include <ctime>
#include <filesystem>
#include <memory>

#include "cli/options.h"
#include "cli/verbs.h"
#include "drafters/drafters.h"
#include "io/json.h"
#include "server/child_process.h"
#include "server/server.h"

namespace cambium::cli {
namespace {

struct Flags {
  OutputFlags output;
  ModelFlags model;
  server::ServerOptions server;
  std::string alias, key_file, admin_key_file, config;
  std::vector<std::string> keys;
  double timeout = 20;
  bool open = false;
};

// One key a line; empty lines and lines that begin with # are none.
void ReadKeys(const std::string& path, std::vector<std::string>& keys) {
  if (path.empty()) return;
  const std::string text = ReadTextFile(path, size_t{1} << 20);
  const size_t before = keys.size();
  for (size_t at = 0; at < text.size();) {
    const size_t end = std::min(text.find('\n', at), text.size());
    std::string line = text.substr(at, end - at);
    while (!line.empty() && (line.back() == '\r' || line.back() == ' ')) line.pop_back();
    if (!line.empty() && line[0] != '#') keys.push_back(line);
    at = end + 1;
  }
  if (keys.size() == before) Fail(ErrorCode::kUsage, path, ": holds no key");
}

// An alias or a cached name as it was given; of a path its last part, without ".gguf".
std::string NameOf(const std::string& model) {
  if (model.find('/') == model.npos) return model;
  std::filesystem::path path(model);
  if (!path.has_filename()) path = path.parent_path();
  return path.extension() == ".gguf" ? path.stem().string() : path.filename().string();
}

bool IsLoopback(const std::string& host) { return host == "localhost" || host == "::1" || host.starts_with("127."); }

// Shows the page with the program that opens addresses here; a line says so where there is none.
void OpenBrowser(std::string address, const OutputFlags& output) {
  const size_t any = address.find("//0.0.0.0:");
  if (any != address.npos) address.replace(any + 2, 7, "127.0.0.1");
  try {
    server::ChildProcess({{"xdg-open", address}, "", "", 0}).Leave();
  } catch (const Error& error) {
    Note(output, std::string("--open: ") + error.what() + "; the page is at " + address);
  }
}

void Serve(const Flags& flags) {
  server::ServerOptions options = flags.server;
  CheckRange("--port", options.http.port, 0, 65535);
  CheckRange("--parallel", static_cast<double>(flags.model.engine.parallel), 1, 4096);
  CheckRange("--queue", static_cast<double>(options.queue), 0, 1e6);
  CheckRange("--timeout", flags.timeout, 1, 86400);
  CheckRange("--sleep-idle", options.sleep_idle, 0, 1e9);
  CheckRange("--drain-delay", options.drain_delay, 0, 86400);
  CheckRange("--drain-timeout", options.drain_timeout, 0, 86400);
  options.http.body_seconds = options.http.write_seconds = flags.timeout;
  options.http.head_seconds = std::min(flags.timeout, options.http.head_seconds);
  for (const std::string& key : flags.keys) {
    if (key.empty()) Fail(ErrorCode::kUsage, "--api-key: the key is empty");
  }
  options.gate.keys = flags.keys;
  ReadKeys(flags.key_file, options.gate.keys);
  ReadKeys(flags.admin_key_file, options.gate.admin_keys);
  if (!options.service.load_from.empty() && options.gate.admin_keys.empty()) {
    Fail(ErrorCode::kUsage, "--allow-load: needs --admin-key-file, whose keys may load");
  }
  options.service.admin = !options.gate.admin_keys.empty();
  // What is trained here may be loaded here.
  if (options.service.admin && options.service.load_from.empty()) options.service.load_from = options.service.runs;
  CheckDrafters(options.service.drafters);
  if (flags.open && !options.http.unix_path.empty())
    Fail(ErrorCode::kUsage, "--open: no browser reads a --unix socket");
  options.gate.loopback = !options.http.unix_path.empty() || IsLoopback(options.http.host);
  options.service.name = flags.alias.empty() ? NameOf(flags.model.model) : flags.alias;
  options.service.parallel = flags.model.engine.parallel;
  options.service.version = CAMBIUM_VERSION;
  options.service.started = std::time(nullptr);
  options.quiet = flags.output.quiet;
  server::Serve(
      options, [&] { return LoadModel(flags.model, flags.output); },
      [&](const std::string& address) {
        Write("listening on " + address + "\n");
        if (flags.open) OpenBrowser(address, flags.output);
      });
}

void AddNetwork(CLI::App& verb, Flags& f) {
  verb.add_option("--host", f.server.http.host, "Address to listen on")->capture_default_str()->envname("CAMBIUM_HOST");
  verb.add_option("--port", f.server.http.port, "Port (0: any that is free; it is printed)")
      ->capture_default_str()
      ->envname("CAMBIUM_PORT");
  verb.add_option("--unix", f.server.http.unix_path, "A Unix socket to listen on instead")->envname("CAMBIUM_UNIX");
  verb.add_option("--api-key", f.keys, "A key that requests must show; repeatable")
      ->allow_extra_args(false)
      ->envname("CAMBIUM_API_KEY");
  verb.add_option("--api-key-file", f.key_file, "A file of such keys, one a line")->envname("CAMBIUM_API_KEY_FILE");
  verb.add_option("--admin-key-file", f.admin_key_file, "Keys that may load and unload grafts")
      ->envname("CAMBIUM_ADMIN_KEY_FILE");
  verb.add_option("--allow-host", f.server.gate.hosts,
                  "A further name that requests may call this server by; repeatable; *: any")
      ->allow_extra_args(false)
      ->envname("CAMBIUM_ALLOW_HOST");
  verb.add_option("--allow-origin", f.server.gate.origins, "A web page's origin that may ask; repeatable; *: any")
      ->allow_extra_args(false)
      ->envname("CAMBIUM_ALLOW_ORIGIN");
  verb.add_option("--timeout", f.timeout, "Seconds that a client may take to send a request, or none of an answer")
      ->capture_default_str()
      ->envname("CAMBIUM_TIMEOUT");
}

}  // namespace

void AddServe(CLI::App& app) {
  CLI::App* const verb = app.add_subcommand("serve", "Answer over HTTP, as OpenAI's API");
  const auto flags = std::make_shared<Flags>();
  Flags& f = *flags;
  f.model.engine.parallel = 16;
  AddModel(*verb, f.model);
  verb->add_option("-a,--alias", f.alias, "The model's name in requests (as given; of a path its last part)")
      ->envname("CAMBIUM_ALIAS");
  verb->add_option("--graft", f.server.grafts, "A graft to serve, NAME=PATH or NAME=PATH=SCALE; repeatable")
      ->allow_extra_args(false)
      ->envname("CAMBIUM_GRAFT");
  verb->add_option("--allow-load", f.server.service.load_from, "Directory below which requests may load grafts")
      ->check(CLI::ExistingDirectory)
      ->envname("CAMBIUM_ALLOW_LOAD");
  verb->add_option("--runs", f.server.service.runs,
                   "Directory of training runs, to be shown, and with an admin key started")
      ->check(CLI::ExistingDirectory)
      ->envname("CAMBIUM_RUNS");
  verb->add_option("--draft", f.server.service.drafters, "Who drafts where a request does not say; as generate's")
      ->allow_extra_args(false)
      ->envname("CAMBIUM_DRAFT");
  verb->add_option("--np,--parallel", f.model.engine.parallel, "Generations under way at once")
      ->capture_default_str()
      ->envname("CAMBIUM_PARALLEL");
  verb->add_option("--queue", f.server.queue, "Generations that may wait; more are told 429")
      ->capture_default_str()
      ->envname("CAMBIUM_QUEUE");
  verb->add_option("--cache-tokens", f.model.engine.cache_tokens, "Tokens that the KV cache holds (0: enough)")
      ->envname("CAMBIUM_CACHE_TOKENS");
  AddNetwork(*verb, f);
  verb->add_flag("--open", f.open, "Show the page in the browser");
  verb->add_option("--drain-delay", f.server.drain_delay, "Seconds that new requests are still taken after SIGTERM")
      ->capture_default_str()
      ->envname("CAMBIUM_DRAIN_DELAY");
  verb->add_option("--drain-timeout", f.server.drain_timeout, "Seconds that requests under way may take then")
      ->capture_default_str()
      ->envname("CAMBIUM_DRAIN_TIMEOUT");
  verb->add_option("--sleep-idle", f.server.sleep_idle,
                   "Seconds without a request until the model leaves memory; the next request loads it (0: never)")
      ->envname("CAMBIUM_SLEEP_IDLE");
  verb->add_option("--config", f.config, "A TOML file with these options; flags and CAMBIUM_... win")
      ->envname("CAMBIUM_CONFIG");
  AddOutput(*verb, f.output);
  verb->callback([flags, verb] {
    ApplyConfigFile(*verb, flags->config);
    Serve(*flags);
  });
}

}  // namespace cambium::cli
