// A pool of threads that nobody waits for. Workers join a job while it has items, and the caller
// closes the job when they run out, so that a worker that the scheduler leaves alone costs nothing:
// beside other libraries, whose idle threads spin, that is the common case.
#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <memory>
#include <mutex>
#include <vector>

#include "threads/float_state.hpp"
#include "threads/system.hpp"
#include "threads/team.hpp"

namespace cpuattn {
namespace {

using Clock = std::chrono::steady_clock;

// Waking a thread takes some microseconds, so a thread looks this long before it sleeps.
constexpr std::chrono::microseconds kSpin{20};

// A call that asks for more has no use for them, but each would take memory.
constexpr int kMostThreads = 1024;

// How often a waiting caller is asked whether it should stop.
constexpr std::chrono::milliseconds kAskInterval{10};

// True as soon as the condition holds, false after kSpin.
template <class Condition>
bool spin_until(Condition condition) {
  constexpr int kLooksPerClock = 16;  // the clock takes 25 ns
  const auto end = Clock::now() + kSpin;
  do {
    for (int i = 0; i < kLooksPerClock; ++i) {
      if (condition()) return true;
      pause_cpu();
    }
  } while (Clock::now() < end);
  return condition();
}

// A loop whose shares are handed out.
struct Job {
  const Shares& shares;
  int next_thread = 1;         // guarded by the pool's mutex
  std::atomic<int> active{0};  // workers; grows under the pool's mutex only

  explicit Job(const Shares& s) : shares(s) {}
  bool wants_workers() const {
    return next_thread < shares.threads && shares.has_items(shares.context);
  }
  bool is_done() const { return active.load(std::memory_order_acquire) == 0; }
};

class Pool {
 public:
  void run(const Shares& shares) {
    Job job(shares);
    const int forks = lost_threads();
    post(job);
    shares.run(shares.context, 0);
    if (lost_threads() != forks) return;  // whoever held the mutex is gone
    close(job);
    if (!job.is_done() && !spin_until([&] { return job.is_done(); })) sleep_until_done(job, forks);
  }

 private:
  using Lock = std::unique_lock<std::mutex>;

  struct Worker {
    Pool& pool;
    Placement placement;
    int cpu = -1;         // that it last worked on; -1: nobody knows
    int kept_off = -1;    // since then
    int short_waits = 0;  // in a row

    explicit Worker(Pool& p) : pool(p) {}

    // The scheduler may wake a thread on the CPU that it ran on, to wait there for its caller.
    void make_way(int caller) {
      if (caller < 0 || (cpu >= 0 ? cpu != caller : kept_off == caller)) return;
      if (placement.keep_off(caller)) kept_off = caller;
      cpu = -1;
    }
  };

  // The mutex is held for less time than it takes to sleep and be woken.
  Lock lock() {
    constexpr int kTries = 100;
    Lock lock(mutex_, std::try_to_lock);
    for (int i = 0; !lock && i < kTries; ++i) {
      pause_cpu();
      lock.try_lock();
    }
    if (!lock) lock.lock();
    return lock;
  }

  void post(Job& job) {
    const int wanted = job.shares.threads - 1, here = current_cpu();
    int sleepers;
    {
      const Lock locked = lock();
      jobs_.reserve(jobs_.size() + 1);
      hire(wanted);
      for (const auto& worker : workers_) worker->make_way(here);
      jobs_.push_back(&job);
      posted_at_ = Clock::now();
      sleepers = std::min(wanted, sleepers_);
    }
    // After the lock: who waits for this takes the lock next.
    posted_.fetch_add(1, std::memory_order_release);
    for (; sleepers > 0; --sleepers) wake_.notify_one();
  }

  // As many workers as the process gets.
  void hire(int wanted) {
    while (static_cast<int>(workers_.size()) < wanted) {
      workers_.push_back(std::make_unique<Worker>(*this));
      const auto work = [](void* worker) {
        static_cast<Worker*>(worker)->pool.work(*static_cast<Worker*>(worker));
      };
      if (start_thread(work, workers_.back().get())) continue;
      workers_.pop_back();
      return;
    }
  }

  // Nobody joins from here on.
  void close(Job& job) {
    const Lock locked = lock();
    jobs_.erase(std::find(jobs_.begin(), jobs_.end(), &job));
  }

  void sleep_until_done(const Job& job, int forks) {
    Lock locked = lock();
    ++sleeping_callers_;
    while (!job.is_done()) {
      done_.wait_for(locked, kAskInterval);
      if (!job.shares.wait || job.is_done()) continue;
      locked.unlock();
      job.shares.wait(job.shares.context);
      if (lost_threads() != forks) return;
      locked.lock();
    }
    --sleeping_callers_;
  }

  Job* find_job() const {
    for (Job* job : jobs_) {
      if (job->wants_workers()) return job;
    }
    return nullptr;
  }

  void work(Worker& self) {
    const DefaultFloatState floats;
    Lock locked = lock();
    self.placement.take_calling_thread();
    for (;;) {
      const std::uint64_t seen = posted_.load(std::memory_order_relaxed);
      if (Job* const job = find_job()) {
        serve(*job, self, locked);
      } else {
        wait_for_job(seen, self, locked);
      }
    }
  }

  // Looks for a job for a while if the last two came soon enough to be found that way: a call may
  // run two loops, and two in a row are two calls. A worker that looks in vain keeps threads of
  // other libraries from running.
  void wait_for_job(std::uint64_t seen, Worker& self, Lock& locked) {
    const auto is_posted = [&] { return posted_.load(std::memory_order_acquire) != seen; };
    const auto idle_since = Clock::now();
    if (self.short_waits >= 2) {
      locked.unlock();
      spin_until(is_posted);
      locked = lock();
    }
    ++sleepers_;
    wake_.wait(locked, is_posted);
    --sleepers_;
    self.short_waits = posted_at_ - idle_since < kSpin ? std::min(self.short_waits + 1, 2) : 0;
  }

  void serve(Job& job, Worker& self, Lock& locked) {
    const int thread = job.next_thread++;
    job.active.fetch_add(1, std::memory_order_relaxed);
    locked.unlock();
    job.shares.run(job.shares.context, thread);
    job.active.fetch_sub(1, std::memory_order_release);  // the last look at the job
    const int cpu = current_cpu();
    locked = lock();
    self.cpu = cpu;
    self.kept_off = -1;
    if (sleeping_callers_ > 0) done_.notify_all();
  }

  std::mutex mutex_;
  std::vector<std::unique_ptr<Worker>> workers_;
  std::vector<Job*> jobs_;
  Clock::time_point posted_at_;
  int sleepers_ = 0, sleeping_callers_ = 0;
  std::atomic<std::uint64_t> posted_{0};
  std::condition_variable wake_, done_;
};

std::atomic<Pool*> current_pool{nullptr};
std::atomic<int> forks{0};

// Never destroyed: its threads run until the process ends. A child of fork() has none of them, and
// the old pool may be locked for ever: it makes a new one.
Pool& pool() {
  static const bool watched = [] {
    watch_forks([] {
      current_pool.store(nullptr);
      forks.fetch_add(1);
    });
    return true;
  }();
  (void)watched;
  Pool* pool = current_pool.load(std::memory_order_acquire);
  if (pool) return *pool;
  auto fresh = std::make_unique<Pool>();
  if (!current_pool.compare_exchange_strong(pool, fresh.get())) return *pool;
  return *fresh.release();
}

}  // namespace

void run_shares(const Shares& shares) {
  shares.threads > 1 ? pool().run(shares) : shares.run(shares.context, 0);
}

int lost_threads() { return forks.load(std::memory_order_relaxed); }

int usable_threads(int wanted) { return std::min(wanted, kMostThreads); }

std::string_view team_name() { return "own pool"; }

}  // namespace cpuattn
