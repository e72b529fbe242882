#include "app/device_team.h"

#include <spdlog/spdlog.h>

#include <system_error>
#include <utility>

#include "kernels/error.h"

namespace vmamba {

DeviceTeam::DeviceTeam(std::vector<std::unique_ptr<DeviceModel>> models, ImageSource& source)
    : source_(source),
      most_ahead_(2 * models.size() + 2),
      models_(std::move(models)),
      working_(models_.size()) {
  check(!models_.empty(), "a team without devices");
  try {
    for (const auto& model : models_) threads_.emplace_back([this, &model] { work(*model); });
    threads_.emplace_back([this] { feed(); });
  } catch (const std::system_error& error) {
    fail(nullptr);
    for (std::thread& thread : threads_) thread.join();
    fail_machine("no thread for a device: {}", error.what());
  }
}

DeviceTeam::~DeviceTeam() {
  fail(nullptr);
  source_.stop();  // the feeding thread may be waiting for an input
  for (std::thread& thread : threads_) thread.join();
}

void DeviceTeam::fail(std::exception_ptr failure) {
  const std::lock_guard lock(mutex_);
  if (!failure_) failure_ = std::move(failure);
  stop_ = true;
  changed_.notify_all();
}

void DeviceTeam::feed() {
  try {
    ImageBatch batch;
    for (;;) {
      {
        std::unique_lock lock(mutex_);
        changed_.wait(lock, [&] { return stop_ || fed_ - returned_ < most_ahead_; });
        if (stop_) return;
        if (!spare_.empty()) {
          batch = std::move(spare_.back());
          spare_.pop_back();
        }
      }
      const bool more = source_.next(batch);
      const std::lock_guard lock(mutex_);
      if (more)
        queue_.emplace(fed_++, std::exchange(batch, {}));
      else
        all_fed_ = true;
      changed_.notify_all();
      if (!more) return;
    }
  } catch (...) {
    const std::lock_guard lock(mutex_);
    if (!failure_) failure_ = std::current_exception();  // thrown after the batches before
    all_fed_ = true;
    changed_.notify_all();
  }
}

// False at the end, or if none is queued and `wait` is false. The end is when no batch is queued or being computed: a
// device that fails puts its batches back.
bool DeviceTeam::take(Job& job, bool wait) {
  std::unique_lock lock(mutex_);
  if (wait) changed_.wait(lock, [&] { return stop_ || !queue_.empty() || (all_fed_ && computing_ == 0); });
  if (stop_ || queue_.empty()) return false;
  auto first = queue_.extract(queue_.begin());
  job = {first.key(), std::move(first.mapped())};
  ++computing_;
  return true;
}

void DeviceTeam::work(DeviceModel& model) {
  std::vector<Job> jobs;  // the one that is computed, and the one after it
  try {
    for (;;) {
      Job job;
      bool is_ahead = true;
      if (jobs.empty()) {
        if (!take(job, true)) return;
        jobs.push_back(std::move(job));
        model.start(jobs[0].batch);
      }
      if (model.works_ahead() && take(job, false)) {
        jobs.push_back(std::move(job));
        is_ahead = model.start(jobs[1].batch);
      }
      std::vector<float> logits = model.finish(jobs[0].batch);
      {
        const std::lock_guard lock(mutex_);
        results_[jobs[0].place] = {std::move(jobs[0].batch), std::move(logits)};
        --computing_;
        changed_.notify_all();
      }
      jobs.erase(jobs.begin());
      if (!is_ahead) model.start(jobs[0].batch);
    }
  } catch (const MachineError& error) {
    give_up(model, error.what(), std::move(jobs));
  } catch (...) {
    fail(std::current_exception());
  }
}

// Called in the handler of the exception, which is what the user reads if there is only this device.
void DeviceTeam::give_up(const DeviceModel& model, const std::string& why, std::vector<Job> unfinished) {
  const std::lock_guard lock(mutex_);
  why_given_up_ += (why_given_up_.empty() ? "" : "; ") + why;
  if (--working_ == 0) {
    if (!failure_)
      failure_ = models_.size() == 1
                     ? std::current_exception()
                     : std::make_exception_ptr(MachineError("no device is left: " + why_given_up_));
    stop_ = true;
  } else if (!stop_) {
    spdlog::warn("{} is used no longer, the other devices compute its batches: {}", model.name(), why);
  }
  computing_ -= unfinished.size();
  for (Job& job : unfinished) queue_.emplace(job.place, std::move(job.batch));
  changed_.notify_all();
}

bool DeviceTeam::next(ImageBatch& batch, std::vector<float>& logits) {
  std::unique_lock lock(mutex_);
  const auto at_end = [&] { return all_fed_ && returned_ == fed_; };
  changed_.wait(lock, [&] { return results_.contains(returned_) || stop_ || at_end(); });
  const auto found = results_.find(returned_);
  if (found == results_.end()) {
    if (failure_) std::rethrow_exception(failure_);
    return false;
  }
  spare_.push_back(std::exchange(batch, std::move(found->second.batch)));
  logits = std::move(found->second.logits);
  results_.erase(found);
  ++returned_;
  changed_.notify_all();
  return true;
}

}  // namespace vmamba
