// The part of NVIDIA's driver, and of its library for managing GPUs, that is asked before a GPU is opened; for tests.
#include <stdint.h>
#include <stdio.h>
#include <string.h>

static int64_t cards = 1, version = 13000, init = 0, total = 80LL << 30, available = 79LL << 30, managed = 0;

// fake_driver_set changes a setting: the number of cards, the CUDA version, what cuInit answers, the memory of each card
// and what is free of it in bytes, and what the managing library answers.
void fake_driver_set(const char *name, int64_t value) {
  if (!strcmp(name, "cards")) cards = value;
  if (!strcmp(name, "version")) version = value;
  if (!strcmp(name, "init")) init = value;
  if (!strcmp(name, "total")) total = value;
  if (!strcmp(name, "free")) available = value;
  if (!strcmp(name, "managed")) managed = value;
}

int cuInit(unsigned flags) { return flags ? 1 : (int)init; }
int cuDriverGetVersion(int *v) { return *v = (int)version, 0; }
int cuDeviceGetCount(int *n) { return *n = (int)cards, 0; }
int cuDeviceGet(int *device, int i) { return i < cards ? (*device = 100 + i, 0) : 101; }
int cuDeviceGetName(char *name, int size, int device) { return snprintf(name, size, "Fake %d", device), 0; }
int cuDeviceTotalMem_v2(size_t *bytes, int device) { return *bytes = device >= 100 ? total : 0, 0; }
int cuDeviceGetPCIBusId(char *bus, int size, int device) { return snprintf(bus, size, "0000:%02x:00.0", device), 0; }
int cuGetErrorString(int code, const char **text) {
  if (code == 999) return *text = "unknown error", 0;
  if (code == 803) return *text = "system has unsupported display driver / cuda driver combination", 0;
  return *text = NULL, 1;
}

static int users;
int nvmlInit_v2(void) { return users++, (int)managed; }
int nvmlShutdown(void) { return users-- > 0 ? 0 : 1; }
int nvmlDeviceGetHandleByPciBusId_v2(const char *bus, void **device) {
  static char of[64];
  if (users == 0) return 1;
  snprintf(of, sizeof of, "%s", bus);
  *device = of;
  return strncmp(bus, "0000:", 5) ? 6 : 0;
}
int nvmlDeviceGetMemoryInfo(void *device, uint64_t *memory) {
  if (device == NULL) return 2;
  memory[0] = total, memory[1] = available, memory[2] = total - available;
  return 0;
}
const char *nvmlErrorString(int code) { return code == 9 ? "Driver Not Loaded" : "failed"; }
