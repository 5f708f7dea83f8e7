#include "scale/communicator.h"

#include <fmt/format.h>
#include <unistd.h>

#include <cstring>
#include <thread>

#include "base/check.h"

namespace cambium {
namespace {

constexpr int64_t kChunk = int64_t{1} << 18;       // floats of a message
constexpr int64_t kMostBytes = int64_t{64} << 20;  // of a message of a text
constexpr double kGrace = 3;                       // seconds that the living have to say so

std::string Host() {
  char name[256] = "unknown host";
  gethostname(name, sizeof(name) - 1);
  return name;
}

void Pause(int64_t round) {
  if (round > 200) std::this_thread::sleep_for(std::chrono::microseconds(20));
}

}  // namespace

Communicator::Communicator(std::unique_ptr<Transport> transport, double timeout)
    : transport_(std::move(transport)), timeout_(timeout), here_(static_cast<size_t>(transport_->size())) {
  hosts_ = std::vector<std::string>(here_.size(), "not heard of yet");
  hosts_ = Gather(Host());
}

std::string Communicator::Name(int rank) const {
  return fmt::format("rank {} ({})", rank, hosts_[static_cast<size_t>(rank)]);
}

double Communicator::Since(Clock::time_point begin) {
  return std::chrono::duration<double>(Clock::now() - begin).count();
}

double Communicator::Patience() const {
  if (timeout_ > 0) return timeout_;
  return slowest_ == 0 ? 600 : std::max(60.0, 10 * slowest_);
}

std::vector<int> Communicator::Others() const {
  std::vector<int> others;
  for (int r = 0; r < size(); ++r) {
    if (r != rank()) others.push_back(r);
  }
  return others;
}

bool Communicator::WaitQuietly(Requests& requests, double seconds) noexcept {
  const auto begin = Clock::now();
  try {
    for (int64_t round = 0;; ++round) {
      std::erase_if(requests, [&](Transport::Request& r) { return r == nullptr || transport_->Done(r); });
      if (requests.empty() || Since(begin) > seconds) return requests.empty();
      Pause(round);
    }
  } catch (const std::exception&) {
    return false;
  }
}

void Communicator::Wait(Requests& requests) {
  const auto begin = Clock::now();
  broken_ = true;
  for (int64_t round = 0;; ++round) {
    std::erase_if(requests, [&](Transport::Request& r) { return r == nullptr || transport_->Done(r); });
    if (requests.empty()) break;
    HearFailures();
    HearHere();
    if (Since(begin) > Patience()) Expire();
    Pause(round);
  }
  broken_ = false;
}

std::string Communicator::Read(int from, int64_t bytes, Transport::Tag tag) {
  std::string text(static_cast<size_t>(bytes), '\0');
  Requests requests = {transport_->Receive(text.data(), bytes, from, tag)};
  WaitQuietly(requests, 60);
  return text;
}

// A failure is a code and a text: to rank 0 of one that another met, from rank 0 the end of all.
void Communicator::HearFailures() {
  int from = 0;
  int64_t bytes = 0;
  if (!transport_->Waits(Transport::kFailed, from, bytes)) return;
  const std::string text = Read(from, bytes, Transport::kFailed);
  std::memcpy(&code_, text.data(), sizeof(code_));
  if (rank() != 0) told_ = true;
  Fail(static_cast<ErrorCode>(code_), Name(from), ": ", text.substr(sizeof(code_)));
}

void Communicator::SayHere() {
  if (said_here_) return;
  said_here_ = true;
  Requests requests;
  for (const int r : Others()) requests.push_back(transport_->Send("", 0, r, Transport::kHere));
}

void Communicator::HearHere() {
  int from = 0;
  int64_t bytes = 0;
  while (transport_->Waits(Transport::kHere, from, bytes)) {
    Read(from, bytes, Transport::kHere);
    here_[static_cast<size_t>(from)] = true;
    SayHere();
  }
}

void Communicator::Expire() {
  expired_ = true;
  SayHere();
  for (const auto begin = Clock::now(); Since(begin) < kGrace; Pause(1000)) {
    HearFailures();
    HearHere();
  }
  std::string missing;
  for (const int r : Others()) {
    if (!here_[static_cast<size_t>(r)]) missing += (missing.empty() ? "" : ", ") + Name(r);
  }
  Fail(ErrorCode::kRuntime, missing.empty() ? "all ranks are here, but not at the same step" : missing + " is missing",
       ": nothing came for ", fmt::format("{:g}", Patience()),
       " s (--dist-timeout); the newest checkpoint stays, --resume auto goes on from it");
}

std::vector<std::string> Communicator::Exchange(std::string_view mine, const std::vector<int>& to,
                                                const std::vector<int>& from) {
  outbox_ = mine;
  out_length_ = std::ssize(outbox_);
  lengths_.assign(static_cast<size_t>(size()), 0);
  inbox_.assign(static_cast<size_t>(size()), "");
  Requests sent, came;
  for (const int r : to) sent.push_back(transport_->Send(&out_length_, sizeof(int64_t), r, Transport::kData));
  for (const int r : from) {
    came.push_back(transport_->Receive(&lengths_[static_cast<size_t>(r)], sizeof(int64_t), r, Transport::kData));
  }
  const auto pieces = [](std::string& text, const auto& f) {
    for (int64_t at = 0; at < std::ssize(text); at += kMostBytes) {
      f(text.data() + at, std::min(kMostBytes, std::ssize(text) - at));
    }
  };
  pieces(outbox_, [&](char* data, int64_t bytes) {
    for (const int r : to) sent.push_back(transport_->Send(data, bytes, r, Transport::kData));
  });
  Wait(came);
  for (const int r : from) {
    std::string& text = inbox_[static_cast<size_t>(r)];
    text.resize(static_cast<size_t>(lengths_[static_cast<size_t>(r)]));
    pieces(text,
           [&](char* data, int64_t bytes) { came.push_back(transport_->Receive(data, bytes, r, Transport::kData)); });
  }
  came.insert(came.end(), sent.begin(), sent.end());
  Wait(came);
  return std::move(inbox_);
}

std::vector<std::string> Communicator::Gather(std::string_view mine) {
  std::vector<std::string> all = Exchange(mine, Others(), Others());
  all[static_cast<size_t>(rank())] = mine;
  return all;
}

std::vector<std::string> Communicator::GatherAtFirst(std::string_view mine) {
  if (rank() == 0) {
    std::vector<std::string> all = Exchange("", {}, Others());
    all[0] = mine;
    return all;
  }
  Exchange(mine, {0}, {});
  return {};
}

void Communicator::FromFirst(std::string& text) {
  if (rank() == 0) {
    Exchange(text, Others(), {});
  } else {
    text = Exchange("", {}, {0})[0];
  }
}

void Communicator::ToOwners(std::span<const float> mine, std::span<const int64_t> borders, int senders,
                            const Take& take) {
  const int me = rank();
  int64_t rounds = 0;
  for (int r = 0; r < size(); ++r) {
    const size_t i = static_cast<size_t>(r);
    rounds = std::max(rounds, (borders[i + 1] - borders[i] + kChunk - 1) / kChunk);
  }
  const auto piece = [&](int owner, int64_t round) {
    const int64_t end = borders[static_cast<size_t>(owner) + 1];
    const int64_t begin = std::min(end, borders[static_cast<size_t>(owner)] + round * kChunk);
    return std::pair(begin, std::min(kChunk, end - begin));
  };
  Requests requests[2];
  const auto start = [&](int64_t round) {
    const int turn = static_cast<int>(round % 2);
    out_[turn].resize(static_cast<size_t>(size() * kChunk));
    in_[turn].resize(static_cast<size_t>(size() * kChunk));
    const auto own = piece(me, round);
    for (const int r : Others()) {
      const auto theirs = piece(r, round);
      float* const out = out_[turn].data() + r * kChunk;
      if (me < senders && theirs.second > 0) {
        std::copy_n(mine.data() + theirs.first, theirs.second, out);
        requests[turn].push_back(transport_->Send(out, theirs.second * 4, r, Transport::kData));
      }
      if (r < senders && own.second > 0) {
        float* const in = in_[turn].data() + r * kChunk;
        requests[turn].push_back(transport_->Receive(in, own.second * 4, r, Transport::kData));
      }
    }
  };
  if (rounds > 0) start(0);
  for (int64_t round = 0; round < rounds; ++round) {
    const int turn = static_cast<int>(round % 2);
    if (round + 1 < rounds) start(round + 1);
    Wait(requests[turn]);
    const auto own = piece(me, round);
    const auto count = static_cast<size_t>(own.second);
    for (int r = 0; r < senders && count > 0; ++r) {
      take(own.first, {r == me ? mine.data() + own.first : in_[turn].data() + r * kChunk, count});
    }
  }
}

void Communicator::FromOwners(std::span<float> all, std::span<const int64_t> borders) {
  int64_t longest = 0;
  for (size_t r = 0; r + 1 < borders.size(); ++r) longest = std::max(longest, borders[r + 1] - borders[r]);
  out_[0].resize(static_cast<size_t>(kChunk));
  in_[0].resize(static_cast<size_t>(size() * kChunk));
  const auto piece = [&](int owner, int64_t at) {
    const int64_t begin = borders[static_cast<size_t>(owner)], end = borders[static_cast<size_t>(owner) + 1];
    return all.subspan(static_cast<size_t>(std::min(end, begin + at)),
                       static_cast<size_t>(std::clamp<int64_t>(end - begin - at, 0, kChunk)));
  };
  const auto place = [&](int r) { return in_[0].data() + r * kChunk; };
  for (int64_t at = 0; at < longest; at += kChunk) {
    Requests requests;
    const std::span<float> own = piece(rank(), at);
    std::copy(own.begin(), own.end(), out_[0].begin());
    for (const int r : Others()) {
      const auto bytes = [](std::span<float> some) { return static_cast<int64_t>(some.size_bytes()); };
      if (!own.empty()) requests.push_back(transport_->Send(out_[0].data(), bytes(own), r, Transport::kData));
      const std::span<float> theirs = piece(r, at);
      if (!theirs.empty()) requests.push_back(transport_->Receive(place(r), bytes(theirs), r, Transport::kData));
    }
    Wait(requests);
    for (const int r : Others()) std::copy_n(place(r), piece(r, at).size(), piece(r, at).begin());
  }
}

bool Communicator::Speaks(int code, std::string_view message) noexcept {
  if (rank() == 0) return true;
  if (told_) return false;
  if (expired_) return std::none_of(here_.begin(), here_.begin() + rank(), [](bool here) { return here; });
  try {
    std::string text(reinterpret_cast<const char*>(&code), sizeof(code));
    text += message;
    Requests requests = {transport_->Send(text.data(), std::ssize(text), 0, Transport::kFailed)};
    WaitQuietly(requests, Patience());
    for (const auto begin = Clock::now(); Since(begin) < Patience() && !told_; Pause(1000)) HearFailures();
  } catch (const std::exception&) {  // what rank 0 said
  }
  return !told_;
}

bool Communicator::Leave(int code) noexcept {
  if (expired_) {
    // Time for the one who speaks: the launcher ends all with the first that goes.
    if (!Speaks(code, "")) std::this_thread::sleep_for(std::chrono::milliseconds(300));
    return false;
  }
  try {
    Requests requests;
    std::string text(reinterpret_cast<const char*>(&code), sizeof(code));
    if (code != 0 && rank() == 0) {
      for (const int r : Others())
        requests.push_back(transport_->Send(text.data(), std::ssize(text), r, Transport::kFailed));
    }
    const char well = broken_ ? 0 : 1;
    std::vector<char> all(here_.size(), 1);
    for (const int r : Others()) {
      requests.push_back(transport_->Send(&well, 1, r, Transport::kBye));
      requests.push_back(transport_->Receive(&all[static_cast<size_t>(r)], 1, r, Transport::kBye));
    }
    // Behind a failure the others hear of it within their pass; behind success rank 0 may have a model to write.
    if (!WaitQuietly(requests, code != 0 ? 5 : Patience())) return false;
    if (!well || std::ranges::any_of(all, [](char other) { return other == 0; })) return false;
    int from = 0;
    int64_t bytes = 0;
    while (transport_->Waits(Transport::kFailed, from, bytes)) Read(from, bytes, Transport::kFailed);
    transport_->Close();
    return true;
  } catch (const std::exception&) {
    return false;
  }
}

}  // namespace cambium
