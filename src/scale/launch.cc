#include "scale/launch.h"

#include <dlfcn.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <memory>
#include <string>

#include "base/parallel.h"
#include "cambium/error.h"
#include "scale/communicator.h"
#include "scale/mpi/module.h"

namespace cambium {
namespace {

constexpr const char* kLibrary = "libcambium_mpi.so";

std::string Variable(const char* name) {
  const char* const value = std::getenv(name);
  return value == nullptr ? "" : value;
}

int Number(const std::string& text) { return std::atoi(text.c_str()); }

// "OMPI_COMM_WORLD_SIZE is 4"; empty where this process was started alone.
std::string Launcher() {
  for (const char* name : {"OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "MPI_LOCALNRANKS", "SLURM_NTASKS"}) {
    const std::string value = Variable(name);
    if (Number(value) > 1) return std::string(name) + " is " + value;
  }
  // Slurm's PMIx says no size; one task is none too many.
  const std::string rank = Variable("PMIX_RANK");
  if (rank.empty() || !Variable("OMPI_COMM_WORLD_SIZE").empty() || !Variable("SLURM_NTASKS").empty()) return "";
  return "PMIX_RANK is " + rank;
}

class MpiTransport : public Transport {
 public:
  MpiTransport(const CambiumMpi& mpi, int rank, int size) : mpi_(mpi), rank_(rank), size_(size) {}
  int rank() const override { return rank_; }
  int size() const override { return size_; }
  Request Send(const void* data, int64_t bytes, int to, Tag tag) override {
    return Made(mpi_.send(data, bytes, to, tag), "send to", to);
  }
  Request Receive(void* data, int64_t bytes, int from, Tag tag) override {
    return Made(mpi_.receive(data, bytes, from, tag), "receive from", from);
  }
  bool Done(Request& request) override {
    const int done = mpi_.done(request);
    if (done < 0) Fail(ErrorCode::kRuntime, "MPI: a message failed; a rank may have ended");
    return done == 1;
  }
  bool Waits(Tag tag, int& from, int64_t& bytes) override { return mpi_.waits(tag, &from, &bytes) != 0; }
  void Close() override { mpi_.close(); }

 private:
  static Request Made(void* request, const char* what, int rank) {
    if (request == nullptr) Fail(ErrorCode::kRuntime, "MPI: cannot ", what, " rank ", rank);
    return request;
  }
  const CambiumMpi& mpi_;
  int rank_, size_;
};

// $CAMBIUM_MPI_MODULE, or the library beside this program or library, or where it is installed, or where the system
// looks.
const CambiumMpi& Open(const std::string& launcher) {
  Dl_info self = {};
  std::string beside = ".";
  if (dladdr(reinterpret_cast<void*>(&JoinRanks), &self) != 0 && self.dli_fname != nullptr) {
    std::error_code error;
    std::filesystem::path path = self.dli_fname;
    if (path.filename() == path || path.filename() == "cambium")
      path = std::filesystem::read_symlink("/proc/self/exe", error);
    beside = path.parent_path().string();
  }
  const std::string wanted = Variable("CAMBIUM_MPI_MODULE");
  std::string why;
  for (const std::string& path : {wanted, beside + "/" + kLibrary,
                                  beside + "/../" CAMBIUM_LIBDIR "/cambium/" + kLibrary, std::string(kLibrary)}) {
    if (path.empty()) continue;
    // Global: Open MPI's own plugins look for its symbols.
    void* const handle = dlopen(path.c_str(), RTLD_NOW | RTLD_GLOBAL);
    if (handle == nullptr) {
      const char* const said = dlerror();
      if (why.empty() || path == wanted) why = said == nullptr ? path : said;
      if (path == wanted) break;
      continue;
    }
    const auto entry = reinterpret_cast<decltype(&cambium_mpi)>(dlsym(handle, "cambium_mpi"));
    if (entry != nullptr && entry()->version == CAMBIUM_MPI_VERSION) return *entry();
    why = path + ": of another version";
  }
  Fail(ErrorCode::kUsage, launcher, ", so this is one of several processes, which need ", kLibrary,
       " to train together: ", why, "; start one process, or unset the variable");
}

std::unique_ptr<Communicator> joined;  // lives until the process ends
bool left = false;

// Of a process that is no program of ours (Python) and ends without LeaveRanks.
void LeaveAtExit() {
  if (!left) joined->Leave(0);
}

std::string NameOf(pid_t process) {
  char name[32] = "";
  const int file = open(("/proc/" + std::to_string(process) + "/comm").c_str(), O_RDONLY | O_CLOEXEC);
  if (file < 0) return "";
  const ssize_t size = read(file, name, sizeof(name) - 1);
  close(file);
  return {name, static_cast<size_t>(std::max<ssize_t>(0, size - 1))};  // without the line's end
}

// Open MPI's mpirun waits for a machine that cannot be reached, for minutes and deaf to SIGTERM. So where this process
// is its child, a watcher of ten seconds ends it for good; its daemons elsewhere end when they find it gone.
void EndLauncherSoon() {
  const pid_t launcher = getppid();
  const std::string name = NameOf(launcher);
  if (name != "mpirun" && name != "mpiexec" && name != "orterun" && name != "prterun") return;
  if (fork() != 0) return;
  setsid();
  for (int file = 0; file < 3; ++file) close(file);
  for (int second = 0; second < 10 && NameOf(launcher) == name; ++second) sleep(1);
  if (NameOf(launcher) == name) kill(launcher, SIGKILL);
  _exit(0);
}

}  // namespace

Ranks* JoinedRanks() { return joined.get(); }

Ranks* JoinRanks(double timeout) {
  if (joined != nullptr) return joined.get();
  const std::string launcher = Launcher();
  if (launcher.empty()) return nullptr;
  const CambiumMpi& mpi = Open(launcher);
  int rank = 0, size = 1;
  char why[256] = "";
  if (mpi.start(&rank, &size, why, sizeof(why)) != 0) Fail(ErrorCode::kRuntime, why);
  if (size == 1) {
    if (launcher.starts_with("PMIX_RANK")) return nullptr;
    Fail(ErrorCode::kUsage, launcher, ", but MPI sees this process alone: start with the mpirun of the MPI that ",
         kLibrary, " was built for, or with srun --mpi=pmix; or unset the variable");
  }
  joined = std::make_unique<Communicator>(std::make_unique<MpiTransport>(mpi, rank, size), timeout);
  std::atexit(LeaveAtExit);
  return joined.get();
}

int ThreadsOfRank() {
  const int local = std::max(Number(Variable("OMPI_COMM_WORLD_LOCAL_SIZE")), Number(Variable("MPI_LOCALNRANKS")));
  cpu_set_t set;
  CPU_ZERO(&set);
  const bool bound = sched_getaffinity(0, sizeof(set), &set) == 0 && CPU_COUNT(&set) < sysconf(_SC_NPROCESSORS_ONLN);
  return joined == nullptr || local <= 1 || bound ? 0 : std::max(1, DefaultThreads() / local);
}

bool SpeaksForRanks(int code, std::string_view message) noexcept {
  return joined == nullptr || joined->Speaks(code, message);
}

int LeaveRanks(int code) noexcept {
  if (joined == nullptr) return code;
  left = true;
  const bool together = joined->Leave(code);
  if (joined->code() != 0 && joined->rank() != 0) code = joined->code();
  if (together) return code;
  std::fflush(stdout);
  EndLauncherSoon();
  _exit(code);  // MPI's own end would wait for those who are not there
}

}  // namespace cambium
