// `mpirun -np N cambium train`: the same files for every N, resumed at another N, and an end for every fault.
#include <gtest/gtest.h>
#include <sys/wait.h>

#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>
#include <string>

#include "temp_folder.h"
#include "tiny_llama.h"

namespace cambium {
namespace {

namespace fs = std::filesystem;

std::string ReadAll(const fs::path& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

// What a run left: its files, but for times, and for the lock.
std::map<std::string, std::string> FilesOf(const std::string& directory) {
  std::map<std::string, std::string> files;
  for (const fs::directory_entry& entry : fs::recursive_directory_iterator(directory)) {
    const std::string name = fs::relative(entry.path(), directory).string();
    if (!entry.is_regular_file() || name.find("tfevents") != std::string::npos || name == ".lock" ||
        name == "train.toml") {
      continue;
    }
    files[name] = ReadAll(entry.path());
    if (name != "metrics.jsonl") continue;
    std::string kept;
    std::istringstream lines(files[name]);
    for (std::string line; std::getline(lines, line);) {
      nlohmann::json entry_of_step = nlohmann::json::parse(line);
      entry_of_step.erase("tokens_per_s");
      kept += entry_of_step.dump() + "\n";
    }
    files[name] = kept;
  }
  return files;
}

class MpiTest : public testing::Test {
 protected:
  void SetUp() override {
    if (std::system("command -v mpirun >/dev/null 2>&1") != 0) GTEST_SKIP() << "no mpirun";
    if (!fs::exists(fs::path(CAMBIUM_CLI).parent_path() / "libcambium_mpi.so")) GTEST_SKIP() << "built without MPI";
    std::ofstream data(folder_ / "data.jsonl");
    for (int i = 0; i < 13; ++i) {
      data << R"({"prompt":"What is )" << i << R"(?","completion":")" << std::string(static_cast<size_t>(i), 'x')
           << R"( it is."})" << '\n';
    }
  }

  struct Outcome {
    int code;
    std::string err;
    double seconds;
  };
  Outcome Shell(const std::string& command) {
    const std::string err = folder_ / "err";
    const auto begin = std::chrono::steady_clock::now();
    const int status =
        std::system(("{ " + command + "; } > '" + (folder_ / "out") + "' 2> '" + err + "' < /dev/null").c_str());
    const std::chrono::duration<double> elapsed = std::chrono::steady_clock::now() - begin;
    return {WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status), ReadAll(err), elapsed.count()};
  }
  static std::string Mpirun(int ranks) {
    return "OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 mpirun --oversubscribe --bind-to none -np " +
           std::to_string(ranks) + " ";
  }
  // 13 examples, 5 of them a step: the last step of an epoch has 3.
  std::string Train(const std::string& to, const std::string& more, int save_every = 2) const {
    return "'" CAMBIUM_CLI "' train '" + files_.path() + "' --data '" + (folder_ / "data.jsonl") + "' -o '" +
           (folder_ / to) +
           "' -t 1 -y --batch-size 1 --accumulate 5 --seq-len 40 --rank 4 --lr 0.01 --valid-split 0.2 "
           "--eval-every 2 --seed 7 --save-every " +
           std::to_string(save_every) + " " + more;
  }
  void ExpectSame(const std::string& a, const std::string& b) {
    const auto left = FilesOf(folder_ / a), right = FilesOf(folder_ / b);
    EXPECT_GT(left.size(), 5u);
    for (const auto& [name, bytes] : left) {
      ASSERT_TRUE(right.contains(name)) << b << " lacks " << name;
      EXPECT_TRUE(right.at(name) == bytes) << name << " of " << a << " and " << b;
    }
    EXPECT_EQ(left.size(), right.size());
  }
  void ExpectSameForEveryN(const std::string& name, const std::string& options) {
    ASSERT_EQ(Shell(Train(name + "1", options)).code, 0);
    for (const int ranks : {2, 3, 4}) {
      const std::string to = name + std::to_string(ranks);
      const Outcome run = Shell(Mpirun(ranks) + Train(to, options));
      ASSERT_EQ(run.code, 0) << run.err;
      ExpectSame(name + "1", to);
    }
  }

  const TempFolder folder_;
  const TinyLlama files_;
};

TEST_F(MpiTest, LoraIsTheSameForEveryN) {
  for (const std::string precision : {"fp32", "bf16", "fp16"}) {
    ExpectSameForEveryN("lora-" + precision, "--epochs 2 --precision " + precision);
  }
  ExpectSameForEveryN("lora-8bit", "--epochs 2 --adam-8bit --dropout 0.1");
}

TEST_F(MpiTest, FullIsTheSameForEveryN) {
  for (const std::string precision : {"fp32", "bf16", "fp16"}) {
    ExpectSameForEveryN("full-" + precision, "--epochs 2 --graft full --precision " + precision);
  }
  ExpectSameForEveryN("full-8bit", "--epochs 2 --graft full --adam-8bit --weight-decay 0.1");
}

TEST_F(MpiTest, ResumesAtAnotherN) {
  for (const std::string graft : {"lora", "full"}) {
    const std::string options = "--steps 9 --adam-8bit --resume auto --graft " + graft;
    ASSERT_EQ(Shell(Train(graft + "-whole", options)).code, 0);
    // Ended by SIGUSR1, which mpirun hands on; then killed; then to the end alone.
    const auto until = [&](int step, const std::string& signal, int ranks) {
      const std::string at = folder_ / (graft + "-cut/checkpoints/step-" + std::to_string(step));
      return Shell(Mpirun(ranks) + Train(graft + "-cut", options) + " & pid=$!; for i in $(seq 600); do [ -e '" + at +
                   "' ] && break; sleep 0.02; done; kill -" + signal + " $pid; wait $pid");
    };
    until(2, "USR1", 4);
    until(4, "KILL", 2);
    std::system("sleep 1.5");  // the ranks of a killed mpirun end by themselves
    const Outcome last = Shell(Train(graft + "-cut", options));
    ASSERT_EQ(last.code, 0) << last.err;
    ExpectSame(graft + "-whole", graft + "-cut");
  }
}

TEST_F(MpiTest, SilentAndKilledRanksEndTheJob) {
  for (const std::string signal : {"STOP", "KILL"}) {
    const std::string to = "fault-" + signal;
    const Outcome run =
        Shell(Mpirun(3) + Train(to, "--steps 100000 --dist-timeout 2", 1) +
              " & pid=$!; for i in $(seq 600); do [ -e '" + (folder_ / (to + "/checkpoints/step-2")) +
              "' ] && break; sleep 0.02; done; kill -" + signal + " $(pgrep -P $pid | sed -n 2p); wait $pid");
    EXPECT_NE(run.code, 0);
    EXPECT_LT(run.seconds, 60);
    if (signal == "STOP") {
      EXPECT_EQ(run.code, 1) << run.err;
      EXPECT_NE(run.err.find("error: rank 1 ("), std::string::npos) << run.err;
      EXPECT_NE(run.err.find("is missing: nothing came for 2 s"), std::string::npos) << run.err;
    }
    const Outcome on = Shell(Train(to, "--steps 100000 --resume auto --dist-timeout 2", 1) +
                             " & pid=$!; sleep 2; kill -INT $pid; wait $pid");
    EXPECT_EQ(on.code, 5) << on.err;
    EXPECT_NE(on.err.find("resumed after step"), std::string::npos) << on.err;
  }
}

TEST_F(MpiTest, RefusesByName) {
  const auto expect = [&](const std::string& command, int code, const std::string& part) {
    const Outcome run = Shell(command);
    EXPECT_EQ(run.code, code) << run.err;
    EXPECT_NE(run.err.find(part), std::string::npos) << run.err;
    EXPECT_EQ(run.err.find("error: "), run.err.rfind("error: ")) << "one error line: " << run.err;
  };
  const std::string one = Train("refused", "--steps 1");
  expect("CAMBIUM_MPI_MODULE=/nowhere/lib.so OMPI_COMM_WORLD_SIZE=2 " + one, 2, "OMPI_COMM_WORLD_SIZE is 2");
  expect("CAMBIUM_MPI_MODULE=/nowhere/lib.so SLURM_NTASKS=3 " + one, 2, "SLURM_NTASKS is 3");
  expect("SLURM_NTASKS=3 OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 " + one, 2,
         "sees this process alone");
  expect(Mpirun(6) + one, 2, "--accumulate is 5, but there are 6 ranks");
  expect(Mpirun(2) + Train("refused", "--graft medusa --steps 1"), 2, "draft heads are trained by one process");
  const auto differs = [&](const std::string& variable, const std::string& options, const std::string& part) {
    std::ofstream script(folder_ / "rank.sh");
    script << "[ $OMPI_COMM_WORLD_RANK = 0 ] || { " << variable << "; more='" << options << "'; }\nexec "
           << Train("refused", "--steps 1") << " $more\n";
    script.close();
    expect(Mpirun(2) + "sh '" + (folder_ / "rank.sh") + "'", 2, part);
  };
  differs("export CAMBIUM_ISA=emu128", "", "the instruction set (CAMBIUM_ISA) is emu128, there ");
  differs(":", "--clip 2", "clip is 2.0, there 1.0");
  EXPECT_FALSE(fs::exists(folder_ / "refused/train.toml"));
}

TEST_F(MpiTest, PlanForecastsCommunication) {
  const Outcome run = Shell("'" CAMBIUM_CLI "' plan '" + files_.path() + "' --data '" + (folder_ / "data.jsonl") +
                            "' -t 1 --seq-len 40 --accumulate 6 --rank 4 -np 4 --json");
  ASSERT_EQ(run.code, 0) << run.err;
  const nlohmann::json plan = nlohmann::json::parse(ReadAll(folder_ / "out"));
  const int64_t parameters = plan["parameters"];
  EXPECT_EQ(plan["network"]["ranks"], 4);
  EXPECT_EQ(plan["network"]["micro_batches"], 2);
  EXPECT_EQ(plan["network"]["bytes_sent"], 3 * (parameters * 4 / 4 * 3));  // two rounds of gradients, one of values
  EXPECT_EQ(Shell("'" CAMBIUM_CLI "' plan '" + files_.path() + "' --data '" + (folder_ / "data.jsonl") +
                  "' --seq-len 40 --np 4")
                .code,
            2);
}

}  // namespace
}  // namespace cambium
