#pragma once

#include <algorithm>
#include <chrono>
#include <memory>
#include <string>
#include <vector>

#include "cambium/error.h"
#include "scale/transport.h"
#include "train/ranks.h"

namespace cambium {

// Ranks over a transport. Every wait ends: with what it waits for, with what another rank failed with, or at the
// deadline, when all who are alive tell each other so, and who does not is missing.
class Communicator : public Ranks {
 public:
  // timeout: seconds a rank may be waited for; 0: ten times the slowest step, at least a minute, and ten before the
  // first.
  Communicator(std::unique_ptr<Transport> transport, double timeout);

  int rank() const override { return transport_->rank(); }
  int size() const override { return transport_->size(); }
  std::string Name(int rank) const override;
  std::vector<std::string> Gather(std::string_view mine) override;
  std::vector<std::string> GatherAtFirst(std::string_view mine) override;
  void FromFirst(std::string& text) override;
  void ToOwners(std::span<const float> mine, std::span<const int64_t> borders, int senders, const Take& take) override;
  void FromOwners(std::span<float> all, std::span<const int64_t> borders) override;
  void Took(double seconds) override { slowest_ = std::max(slowest_, seconds); }

  // This process ends with an error. Whether it is the one that says so: rank 0 speaks for all who reach it.
  bool Speaks(int code, std::string_view message) noexcept;
  // The last call: after what was said. Whether all ended well and together; else the process must not wait for the
  // others.
  bool Leave(int code) noexcept;
  // The exit code that rank 0 left with, where it ended this process.
  int code() const { return code_; }

 private:
  using Clock = std::chrono::steady_clock;
  using Requests = std::vector<Transport::Request>;
  static double Since(Clock::time_point begin);
  double Patience() const;
  void Wait(Requests& requests);
  bool WaitQuietly(Requests& requests, double seconds) noexcept;  // whether all are done
  std::string Read(int from, int64_t bytes, Transport::Tag tag);  // a message that waits
  void HearFailures();
  void SayHere();
  void HearHere();
  [[noreturn]] void Expire();
  // Sends `mine` to the ranks of `to` and returns what those of `from` send, by rank.
  std::vector<std::string> Exchange(std::string_view mine, const std::vector<int>& to, const std::vector<int>& from);
  std::vector<int> Others() const;

  std::unique_ptr<Transport> transport_;
  double timeout_, slowest_ = 0;
  std::vector<std::string> hosts_;
  // What messages under way read and write lives as long as this does, whatever throws meanwhile.
  std::string outbox_;
  int64_t out_length_ = 0;
  std::vector<int64_t> lengths_;
  std::vector<std::string> inbox_;
  std::vector<float> out_[2], in_[2];
  std::vector<bool> here_;  // who said so, once a deadline passed
  bool said_here_ = false;
  bool broken_ = false;   // messages may be under way still
  bool expired_ = false;  // somebody is missing
  bool told_ = false;     // rank 0 ended this process
  int code_ = 0;
};

}  // namespace cambium
