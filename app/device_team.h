// Computes batches of images on several devices: one thread per device takes them from a queue of decoded batches, and the
// results are returned in input order. A device that fails (lost, or too full for a single image) is
// named in a warning, and its batches go to the others. After a fault on one GPU (illegal access,
// uncorrectable memory error) CUDA fails for the whole process: the other devices fail too, and the error names all.
#pragma once
#include <condition_variable>
#include <exception>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "lib/images/image_source.h"

namespace vmamba {

// A model on one device, used by one thread. An image of a batch that proves corrupt becomes an item with an error.
// MachineError from any function but name(): the device has failed.
class DeviceModel {
 public:
  virtual ~DeviceModel() = default;
  virtual std::string name() const = 0;  // "cuda:1"
  virtual bool works_ahead() const = 0;  // can start a batch while it computes the one before
  // May return before the batch is computed. False if it cannot be queued behind the batch before: to be called again after
  // that one's finish().
  virtual bool start(ImageBatch&) = 0;
  // Logits of the batch that was started first: one row per image.
  virtual std::vector<float> finish(ImageBatch&) = 0;
};

class DeviceTeam {
 public:
  DeviceTeam(std::vector<std::unique_ptr<DeviceModel>> models, ImageSource& source);
  ~DeviceTeam();
  DeviceTeam(const DeviceTeam&) = delete;
  DeviceTeam& operator=(const DeviceTeam&) = delete;

  // The next batch in input order; false after the last. Reuses the memory of `batch`. MachineError if no device is
  // left; what the source throws, after the batches before.
  bool next(ImageBatch& batch, std::vector<float>& logits);

 private:
  struct Job {
    size_t place = 0;  // in input order
    ImageBatch batch;
  };
  struct Result {
    ImageBatch batch;
    std::vector<float> logits;
  };

  void feed();
  void work(DeviceModel& model);
  bool take(Job& job, bool wait);
  void give_up(const DeviceModel& model, const std::string& why, std::vector<Job> unfinished);
  void fail(std::exception_ptr failure);

  ImageSource& source_;
  const size_t most_ahead_;  // batches that are fed and not yet returned
  std::vector<std::unique_ptr<DeviceModel>> models_;
  std::mutex mutex_;  // guards the members below
  std::condition_variable changed_;
  std::map<size_t, ImageBatch> queue_;  // by place
  std::map<size_t, Result> results_;
  std::vector<ImageBatch> spare_;  // their memory is used again
  size_t fed_ = 0, computing_ = 0, returned_ = 0, working_;
  bool all_fed_ = false, stop_ = false;
  std::string why_given_up_;  // of every device that failed
  std::exception_ptr failure_;
  std::vector<std::thread> threads_;  // last member, as the threads use all others
};

}  // namespace vmamba
