// The objects of a PNG, found without Python by a module that `cytoseed export` wrote.
#include <png.h>
#include <torch/script.h>
#include <cerrno>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <iostream>
#include <memory>
#include <string>
#include <vector>

namespace {
std::string png_fault;  // what libpng said last; its functions leave by longjmp, over which no C++ object may lie

void on_png_error(png_structp png, png_const_charp message) {
  png_fault = message;
  png_longjmp(png, 1);
}

using File = std::unique_ptr<std::FILE, int (*)(std::FILE*)>;
File open_file(const std::string& path, const char* mode) {
  File file(std::fopen(path.c_str(), mode), std::fclose);
  if (!file) throw std::runtime_error(path + ": " + std::strerror(errno));
  return file;
}

// Reads a PNG of 1 to 16 bits, grey, RGB or palette, to (C,H,W) float32, its values as stored; alpha is left out.
torch::Tensor read_png(const std::string& path) {
  const File file = open_file(path, "rb");
  png_structp png = png_create_read_struct(PNG_LIBPNG_VER_STRING, nullptr, on_png_error, nullptr);
  png_infop info = png_create_info_struct(png);
  if (setjmp(png_jmpbuf(png))) {
    png_destroy_read_struct(&png, &info, nullptr);
    throw std::runtime_error(path + ": cannot be read as PNG: " + png_fault);
  }
  png_init_io(png, file.get());
  png_read_png(png, info, PNG_TRANSFORM_EXPAND | PNG_TRANSFORM_STRIP_ALPHA | PNG_TRANSFORM_SWAP_ENDIAN, nullptr);
  const int64_t height = png_get_image_height(png, info), width = png_get_image_width(png, info);
  const auto kind = png_get_bit_depth(png, info) == 16 ? torch::kUInt16 : torch::kUInt8;
  torch::Tensor pixels = torch::empty({height, width, png_get_channels(png, info)}, kind);
  png_bytepp rows = png_get_rows(png, info);
  for (int64_t row = 0; row < height; ++row) std::memcpy(pixels[row].data_ptr(), rows[row], pixels[row].nbytes());
  png_destroy_read_struct(&png, &info, nullptr);
  return pixels.permute({2, 0, 1}).to(torch::kFloat32).contiguous();
}

// Writes labels (H,W) as grey PNG of 16 bits; 0 is background.
void write_png(const std::string& path, const torch::Tensor& labels) {
  const int64_t count = labels.max().item<int64_t>();
  if (count > 65535) throw std::runtime_error(std::to_string(count) + " objects are more than 16 bits can number");
  const torch::Tensor values = labels.to(torch::kUInt16).contiguous();
  std::vector<png_bytep> rows;
  for (int64_t row = 0; row < values.size(0); ++row) rows.push_back(static_cast<png_bytep>(values[row].data_ptr()));
  const File file = open_file(path, "wb");
  png_structp png = png_create_write_struct(PNG_LIBPNG_VER_STRING, nullptr, on_png_error, nullptr);
  png_infop info = png_create_info_struct(png);
  if (setjmp(png_jmpbuf(png))) {
    png_destroy_write_struct(&png, &info);
    std::remove(path.c_str());
    throw std::runtime_error(path + ": cannot be written: " + png_fault);
  }
  png_init_io(png, file.get());
  png_set_IHDR(png, info, values.size(1), values.size(0), 16, PNG_COLOR_TYPE_GRAY, PNG_INTERLACE_NONE,
               PNG_COMPRESSION_TYPE_DEFAULT, PNG_FILTER_TYPE_DEFAULT);
  png_set_rows(png, info, rows.data());
  png_write_png(png, info, PNG_TRANSFORM_SWAP_ENDIAN, nullptr);
  if (std::fflush(file.get()) != 0) png_error(png, std::strerror(errno));
  png_destroy_write_struct(&png, &info);
}

torch::jit::Module load(const std::string& path) try {
  open_file(path, "rb");
  return torch::jit::load(path);
} catch (const c10::Error&) {
  throw std::runtime_error(path + ": is not a TorchScript module; `cytoseed export nuclei --to torchscript --output .` "
                                  "writes one, nuclei.pt");
}

// Px that the module sees to one of the image's, whose pixel size in um is given as text.
double scale_of(const std::string& text, double module_um) {
  char* end = nullptr;
  const double scale = std::strtod(text.c_str(), &end) / module_um;
  if (*end != '\0' || !(scale >= 1.0 / 256 && scale <= 16))
    throw std::runtime_error("the pixel size is '" + text + "'; it must be a number of um, from 1/256 to 16 times the "
                             "module's " + std::to_string(module_um));
  return std::abs(scale - 1) <= 0.01 ? 1 : scale;  // so little would only blur the image
}

// Gives each of `full` pixels the number of that of `small` in which its centre lies.
torch::Tensor nearest(int64_t full, int64_t small) {
  return ((2 * torch::arange(full) + 1) * small).div(2 * full, "floor");
}

// Labels (T,H,W) of an image (C,H,W): 0 is background, ids are 1..K without gaps.
torch::Tensor segment(torch::jit::Module& module, const torch::Tensor& image, double scale) {
  const int64_t height = image.size(1), width = image.size(2);
  const int64_t rows = std::max(1.0, std::nearbyint(height * scale));
  const int64_t columns = std::max(1.0, std::nearbyint(width * scale));
  torch::Tensor seen = module.get_method("normalise")({image}).toTensor().unsqueeze(0);
  if (rows != height || columns != width) seen = at::_upsample_bilinear2d_aa(seen, {rows, columns}, false);
  torch::Tensor labels = module.forward({seen}).toTensor()[0].to(torch::kInt64);
  labels = labels.index_select(1, nearest(height, rows)).index_select(2, nearest(width, columns));
  torch::Tensor present = labels.flatten().bincount() > 0;  // where pixels are larger now, small objects are gone
  present[0] = false;
  return present.cumsum(0).take(labels);
}

int run(const std::vector<std::string>& words) {
  if (words.size() != 3 && words.size() != 4) {
    std::cerr << "usage: cytoseed_cpp nuclei.pt image.png labels.png [pixel size of the image in um]\n";
    return 2;
  }
  const torch::InferenceMode no_gradients;
  torch::jit::Module module = load(words[0]);
  const double module_um = module.attr("pixel_size").toDouble();
  const double scale = words.size() == 4 ? scale_of(words[3], module_um) : 1;
  const torch::Tensor labels = segment(module, read_png(words[1]), scale);
  write_png(words[2], labels[0]);
  if (labels.size(0) == 2) write_png(words[2] + ".cells.png", labels[1]);  // a nucleus has the id of its cell
  std::cout << labels.max().item<int64_t>() << " objects\n";
  if (words.size() == 3) std::cerr << "no pixel size given: using the module's, " << module_um << " um\n";
  return 0;
}
}  // namespace

int main(int argc, char** argv) try {
  return run({argv + 1, argv + argc});
} catch (const c10::Error& error) {  // what() would add where in libtorch it was thrown
  std::cerr << error.what_without_backtrace() << "\n";
  return 1;
} catch (const std::exception& error) {  // a module's own begins with where in it that was
  const std::string words = error.what(), line = words.substr(0, words.find_last_not_of('\n') + 1);
  std::cerr << line.substr(line.find_last_of('\n') + 1) << "\n";
  return 1;
}
