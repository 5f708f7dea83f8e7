// Ranks as threads: what they exchange, and how each fault ends.
#include <gtest/gtest.h>

#include <condition_variable>
#include <cstring>
#include <deque>
#include <map>
#include <mutex>
#include <thread>

#include "scale/communicator.h"
#include "train/gradients.h"

namespace cambium {
namespace {

// Messages between threads.
class Post {
 public:
  explicit Post(int ranks) : ranks_(ranks) {}
  std::mutex mutex_;
  std::map<std::tuple<int, int, int>, std::deque<std::string>> boxes_;  // from, to, tag
  int ranks_;
};

class ThreadTransport : public Transport {
 public:
  ThreadTransport(Post& post, int rank) : post_(post), rank_(rank) {}
  int rank() const override { return rank_; }
  int size() const override { return post_.ranks_; }
  Request Send(const void* data, int64_t bytes, int to, Tag tag) override {
    const std::lock_guard lock(post_.mutex_);
    post_.boxes_[{rank_, to, tag}].emplace_back(static_cast<const char*>(data), static_cast<size_t>(bytes));
    return nullptr;
  }
  Request Receive(void* data, int64_t bytes, int from, Tag tag) override { return new Wanted{data, bytes, from, tag}; }
  bool Done(Request& request) override {
    auto* const wanted = static_cast<Wanted*>(request);
    const std::lock_guard lock(post_.mutex_);
    auto& box = post_.boxes_[{wanted->from, rank_, wanted->tag}];
    if (box.empty()) return false;
    EXPECT_EQ(std::ssize(box.front()), wanted->bytes);
    std::memcpy(wanted->data, box.front().data(), box.front().size());
    box.pop_front();
    delete wanted;
    return true;
  }
  bool Waits(Tag tag, int& from, int64_t& bytes) override {
    const std::lock_guard lock(post_.mutex_);
    for (from = 0; from < post_.ranks_; ++from) {
      const auto& box = post_.boxes_[{from, rank_, tag}];
      if (box.empty()) continue;
      bytes = std::ssize(box.front());
      return true;
    }
    return false;
  }
  void Close() override {}

 private:
  struct Wanted {
    void* data;
    int64_t bytes;
    int from;
    Tag tag;
  };
  Post& post_;
  int rank_;
};

void OnRanks(int ranks, double timeout, const std::function<void(Communicator&)>& f) {
  Post post(ranks);
  std::vector<std::thread> threads;
  for (int r = 0; r < ranks; ++r) {
    threads.emplace_back([&, r] {
      Communicator communicator(std::make_unique<ThreadTransport>(post, r), timeout);
      f(communicator);
    });
  }
  for (std::thread& thread : threads) thread.join();
}

TEST(Ranks, ExchangeWhatTheySay) {
  OnRanks(3, 20, [](Communicator& ranks) {
    const std::string mine(static_cast<size_t>(ranks.rank()) * 100, 'a');
    const std::vector<std::string> all = ranks.Gather(mine);
    for (size_t r = 0; r < 3; ++r) EXPECT_EQ(all[r].size(), r * 100);
    std::string text = ranks.rank() == 0 ? "first" : "other";
    ranks.FromFirst(text);
    EXPECT_EQ(text, "first");
    EXPECT_EQ(ranks.GatherAtFirst("x").size(), ranks.rank() == 0 ? 3u : 0u);
    EXPECT_TRUE(ranks.Leave(0));
  });
}

// Longer than a message, with stretches of unequal length, an empty one, and a rank that has nothing to add.
TEST(Ranks, MoveStretchesToTheirOwnersAndBack) {
  const std::vector<int64_t> borders = {0, 700'000, 700'000, 1'000'000};
  OnRanks(3, 20, [&](Communicator& ranks) {
    std::vector<float> mine(1'000'000);
    for (size_t i = 0; i < mine.size(); ++i)
      mine[i] = static_cast<float>(i % 1000) + 1000.0f * static_cast<float>(ranks.rank());
    const auto r = static_cast<size_t>(ranks.rank());
    std::vector<std::string> order(static_cast<size_t>(borders[r + 1] - borders[r]));
    ranks.ToOwners(mine, borders, 2, [&](int64_t begin, std::span<const float> values) {
      for (size_t i = 0; i < values.size(); ++i) {
        const auto at = static_cast<size_t>(begin) + i;
        const int from = static_cast<int>(values[i]) / 1000;
        EXPECT_EQ(values[i], static_cast<float>(at % 1000) + 1000.0f * static_cast<float>(from));
        order[at - static_cast<size_t>(borders[r])] += static_cast<char>('0' + from);
      }
    });
    for (const std::string& senders : order) ASSERT_EQ(senders, "01");
    std::fill(mine.begin(), mine.end(), -1.0f);
    std::fill(mine.begin() + borders[r], mine.begin() + borders[r + 1], static_cast<float>(r));
    ranks.FromOwners(mine, borders);
    EXPECT_EQ(mine[699'999], 0.0f);
    EXPECT_EQ(mine[700'000], 2.0f);
    EXPECT_EQ(mine[999'999], 2.0f);
  });
}

TEST(Ranks, TheOneThatIsMissingIsNamed) {
  OnRanks(3, 1, [](Communicator& ranks) {
    if (ranks.rank() == 1) return std::this_thread::sleep_for(std::chrono::seconds(7));
    try {
      ranks.Gather("here");
      ADD_FAILURE() << "nobody was missed";
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ErrorCode::kRuntime);
      EXPECT_EQ(std::string(error.what()).rfind("rank 1 (", 0), 0u) << error.what();
      EXPECT_EQ(std::string(error.what()).find("rank 2"), std::string::npos) << error.what();
    }
    EXPECT_EQ(ranks.Speaks(1, ""), ranks.rank() == 0);
    EXPECT_FALSE(ranks.Leave(1));
  });
}

TEST(Ranks, AFailureReachesAllAndIsToldOnce) {
  std::atomic<int> told = 0;
  OnRanks(4, 20, [&](Communicator& ranks) {
    try {
      if (ranks.rank() == 2) Fail(ErrorCode::kData, "a bad line");
      for (;;) ranks.Gather("");
    } catch (const Error& error) {
      if (ranks.Speaks(static_cast<int>(error.code()), error.what())) {
        ++told;
        EXPECT_EQ(ranks.rank(), 0);
        EXPECT_EQ(error.code(), ErrorCode::kData);
        EXPECT_NE(std::string(error.what()).find("): a bad line"), std::string::npos) << error.what();
      }
      ranks.Leave(static_cast<int>(error.code()));
    }
  });
  EXPECT_EQ(told, 1);
}

TEST(Ranks, DifferencesNameBothSides) {
  OnRanks(2, 20, [](Communicator& ranks) {
    RequireAlike(ranks, {{"seed", "3"}});
    try {
      RequireAlike(ranks, {{"seed", "3"}, {"the program", ranks.rank() == 0 ? "abc" : "def"}});
      ADD_FAILURE() << "not noticed";
    } catch (const Error& error) {
      EXPECT_NE(std::string(error.what()).find("the program is def, there abc"), std::string::npos) << error.what();
    }
  });
}

TEST(Ranks, ParametersAreCutAtPieces) {
  std::vector<Parameter> params(3);
  std::vector<Parameter*> pointers;
  for (Parameter& param : params) {
    param.value = Tensor(static_cast<float*>(nullptr), {3000});
    pointers.push_back(&param);
  }
  const ParameterLayout layout(pointers, 4);
  EXPECT_EQ(layout.begins, (std::vector<int64_t>{0, 3072, 6144}));
  EXPECT_EQ(layout.size, 9216);
  EXPECT_EQ(layout.borders, (std::vector<int64_t>{0, 2048, 4096, 6144, 9216}));
}

}  // namespace
}  // namespace cambium
