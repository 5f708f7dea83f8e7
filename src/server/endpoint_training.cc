#include <sys/stat.h>

#include <algorithm>
#include <ctime>
#include <filesystem>

#include "io/atomic_file.h"
#include "server/endpoints.h"
#include "server/fields.h"
#include "server/training_request.h"
#include "server/training_runs.h"

namespace cambium::server {
namespace {

namespace fs = std::filesystem;

constexpr double kPlanSeconds = 300;
constexpr int kNice = 5;  // answers go first
constexpr std::string_view kRuns = "/v1/training/runs/";

const std::string& RunsOf(const Service& service) {
  if (service.options.runs.empty()) throw ApiError{403, "training is off; --runs DIR allows it", "", "not_allowed"};
  return service.options.runs;
}

std::string NameIn(const Call& call) { return call.request.path.substr(kRuns.size()); }

ApiError Busy(const Service& service) {
  const auto running = service.jobs.running();
  const bool run = running && !running->name.empty();
  return {409, run ? "the run `" + running->name + "` is under way; one at a time" : "a forecast is under way", "",
          "busy"};
}

// `verb` with what is asked, writing below `directory`.
ChildOptions ProgramFor(const Service& service, const char* verb, const TrainingRequest& request,
                        const fs::path& directory) {
  ChildOptions child;
  child.arguments = {"/proc/self/exe",
                     verb,
                     service.info.path,
                     "--data",
                     (directory / kRunData).string(),
                     "--json",
                     "--threads=" + std::to_string(service.info.threads)};
  WriteRunFile(directory / kRunData, request.data);
  if (!request.valid.empty()) {
    WriteRunFile(directory / kRunValid, request.valid);
    child.arguments.insert(child.arguments.end(), {"--valid", (directory / kRunValid).string()});
  }
  child.arguments.insert(child.arguments.end(), request.options.begin(), request.options.end());
  child.output = (directory / kRunPlan).string();
  child.errors = (directory / kRunLog).string();
  child.nice = kNice;
  return child;
}

// "cambium: error: data.jsonl: line 3: ..." without the paths of this machine.
std::string LastWords(const fs::path& directory) {
  std::string log = LogEnd(directory / kRunLog, 2048);
  const std::string prefix = directory.string() + "/";
  for (size_t at; (at = log.find(prefix)) != log.npos;) log.erase(at, prefix.size());
  while (log.ends_with('\n')) log.pop_back();
  return log.substr(log.rfind('\n') + 1);
}

void AnswerPlan(Reply& reply, const fs::path& directory, int code) {
  const Json plan = FirstJsonLine(directory / kRunPlan);
  if (code == 0 && plan.is_object()) {
    reply.Send({200, Dump(plan)});
    return;
  }
  const std::string why = code == 128 + 9 ? "it took longer than a forecast may" : LastWords(directory);
  reply.Send(ToResponse({400, "the forecast failed: " + why, "data", "bad_training"}));
}

// The path that load_lora_adapter takes for it; null where it lies elsewhere.
Json LoadPath(const Service& service, const fs::path& run) {
  if (service.options.load_from.empty()) return nullptr;
  std::error_code error;
  const fs::path root = fs::canonical(service.options.load_from, error), path = fs::canonical(run, error);
  const fs::path below = error ? fs::path() : path.lexically_relative(root);
  if (below.empty() || *below.begin() == "..") return nullptr;
  return below.string();
}

}  // namespace

void ListRuns(Call& call) {
  Service& service = call.service;
  const auto running = service.jobs.running();
  call.reply->Send({200, Dump({{"runs", RunsJson(RunsOf(service), service.jobs)},
                               {"running", running ? Json(running->name) : Json()}})});
}

void ShowRun(Call& call) {
  Service& service = call.service;
  const std::string& root = RunsOf(service);
  const std::string name = NameIn(call);
  Json run = RunJson(root, name, QueryNumber(call.request.query, "after").value_or(0), service.jobs);
  run["load_path"] = LoadPath(service, RunPath(root, name));
  call.reply->Send({200, Dump(run)});
}

void PlanTraining(Call& call) {
  Service& service = call.service;
  const std::string& root = RunsOf(service);
  const Json body = ParseBody(call.request.body);
  const TrainingRequest request = ReadTrainingRequest(Fields(body));
  if (service.jobs.running()) throw Busy(service);
  const auto scratch = std::make_shared<ScratchDirectory>(root + "/.plan");
  const fs::path directory = fs::path(scratch->Path("")).parent_path();
  TrainingJobs::Job job;
  job.child = ProgramFor(service, "plan", request, directory);
  job.seconds = kPlanSeconds;
  job.ended = [reply = call.reply, scratch, directory](int code) { AnswerPlan(*reply, directory, code); };
  if (!service.jobs.Start(std::move(job))) throw Busy(service);
  call.reply->WhenGone([&jobs = service.jobs] { jobs.Stop(""); });
}

void StartRun(Call& call) {
  Service& service = call.service;
  const std::string& root = RunsOf(service);
  const Json body = ParseBody(call.request.body);
  const TrainingRequest request = ReadTrainingRequest(Fields(body));
  if (!IsRunName(request.name)) {
    Refuse("name", "name is missing, or has other than letters, digits, \".\", \"_\" and \"-\", or more than 64");
  }
  if (service.jobs.running()) throw Busy(service);
  const fs::path directory = fs::path(root) / request.name;
  if (mkdir(directory.c_str(), 0777) != 0) {
    if (errno == EEXIST) throw ApiError{409, "there is a run `" + request.name + "` already", "name", "exists"};
    throw ApiError{500, "the run's directory cannot be made", "", ""};
  }
  TrainingJobs::Job job;
  job.name = request.name;
  job.child = ProgramFor(service, "train", request, directory);
  job.child.arguments.insert(job.child.arguments.end(), {"--output", directory.string()});
  job.ended = [directory](int code) {
    try {
      WriteRunFile(directory / kRunExit, Dump({{"code", code}, {"ended", std::time(nullptr)}}) + "\n");
    } catch (const Error&) {  // a full disk: then the state is read off the other files
    }
  };
  WriteRunFile(directory / kRunRequest,
               Dump({{"graft", request.graft}, {"started", std::time(nullptr)}, {"options", request.options}}) + "\n");
  if (!service.jobs.Start(std::move(job))) {
    std::error_code ignored;
    fs::remove_all(directory, ignored);
    throw Busy(service);
  }
  call.reply->Send({201, Dump({{"name", request.name}, {"state", "running"}})});
}

void StopRun(Call& call) {
  const std::string name = NameIn(call);
  RunPath(RunsOf(call.service), name);
  if (!call.service.jobs.Stop(name)) {
    throw ApiError{409, "the run `" + name + "` is not under way here", "name", "not_running"};
  }
  call.reply->Send({200, Dump({{"name", name}, {"state", "stopping"}})});
}

}  // namespace cambium::server
