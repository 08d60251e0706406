// The table of tuned matrix products: format, sections, and that its hash shows every change.
#include "model/kernels/gemm_table.h"

#include <gtest/gtest.h>

#include <set>
#include <string>

namespace elaswave::kernels {
namespace {

constexpr std::uint64_t kLibrary = 130100;
constexpr std::string_view kDevice = "NVIDIA H200";

const ProductShape kForward{ProductForm::nn, 1024,        3072,          768,
                            DType::bf16,     DType::bf16, Epilogue::bias};
const ProductShape kWeight{ProductForm::tn, 768,        3072,          1024,
                           DType::bf16,     DType::f32, Epilogue::none};
const AlgorithmWords kWords{0x1, 0x23, 0xfedcba9876543210, 0, 5, 6, 7, 8};
const AlgorithmWords kOther{9, 8, 7, 6, 5, 4, 3, 2};

std::string row(const ProductShape& shape, const AlgorithmWords& words) {
  return describe(shape) + " : " + describe(words) + "\n";
}
std::string section(std::uint64_t library, std::string_view device) {
  return "library " + std::to_string(library) + " device " + std::string(device) + "\n";
}
GemmTable parsed(const std::string& text) {
  Result<GemmTable> table = GemmTable::parse(text, kLibrary, kDevice);
  EXPECT_TRUE(table) << table.error().text();
  return table ? *std::move(table) : GemmTable();
}

TEST(GemmTable, WhatIsDescribedIsRead) {
  EXPECT_EQ(describe(kForward), "nn 1024 x 3072 x 768 bf16 -> bf16 bias");
  const GemmTable table =
      parsed(section(kLibrary, kDevice) + row(kForward, kWords) + row(kWeight, kOther));
  ASSERT_NE(table.find(kForward), nullptr);
  EXPECT_EQ(*table.find(kForward), kWords);
  ASSERT_NE(table.find(kWeight), nullptr);
  EXPECT_EQ(*table.find(kWeight), kOther);
  ProductShape absent = kForward;
  absent.N += 8;
  EXPECT_EQ(table.find(absent), nullptr);
}

TEST(GemmTable, OnlyTheSectionOfLibraryAndDeviceCounts) {
  const std::string text = section(kLibrary + 1, kDevice) + row(kForward, kOther) +
                           section(kLibrary, "NVIDIA H100") + row(kForward, kOther) +
                           "\n# measured\n" + section(kLibrary, kDevice) + "  " +
                           row(kForward, kWords);
  const GemmTable table = parsed(text);
  ASSERT_NE(table.find(kForward), nullptr);
  EXPECT_EQ(*table.find(kForward), kWords);
  EXPECT_EQ(table.hash(), parsed(section(kLibrary, kDevice) + row(kForward, kWords)).hash());
  EXPECT_TRUE(parsed(section(kLibrary, "NVIDIA H100") + row(kForward, kOther)).empty());
}

TEST(GemmTable, TheHashIsOfTheRowsNotOfTheirOrder) {
  const std::string head = section(kLibrary, kDevice);
  const GemmTable both = parsed(head + row(kForward, kWords) + row(kWeight, kOther));
  EXPECT_EQ(both.hash(), parsed(head + row(kWeight, kOther) + row(kForward, kWords)).hash());
  std::set<std::uint64_t> hashes = {both.hash(), GemmTable().hash(),
                                    parsed(head + row(kForward, kWords)).hash(),
                                    parsed(head + row(kForward, kOther)).hash()};
  EXPECT_EQ(hashes.size(), 4u);
  // Every part of a shape and every word enters.
  ProductShape shapes[7] = {kForward, kForward, kForward, kForward, kForward, kForward, kForward};
  shapes[0].form = ProductForm::nt;
  shapes[1].M = 8;
  shapes[2].N = 8;
  shapes[3].K = 8;
  shapes[4].inputs = DType::f32;
  shapes[5].result = DType::f32;
  shapes[6].epilogue = Epilogue::none;
  for (const ProductShape& shape : shapes) hashes.insert(hash_choice(0, shape, kWords));
  for (std::size_t i = 0; i < kWords.size(); ++i) {
    AlgorithmWords words = kWords;
    words[i] ^= 1;
    hashes.insert(hash_choice(0, kForward, words));
  }
  EXPECT_EQ(hashes.size(), 4u + 7u + 8u);
}

TEST(GemmTable, BadLinesAreNamed) {
  const std::string head = section(kLibrary, kDevice);
  const std::string words = describe(kWords);
  const std::string good = "nn 8 x 8 x 8 f32 -> f32 none : ";
  for (const std::string& line : {
           good + words.substr(0, words.size() - 17),  // seven words
           good + words + " 9",                        // nine
           good + words.substr(1) + "g",               // not hexadecimal
           "mm 8 x 8 x 8 f32 -> f32 none : " + words,
           "nn 0 x 8 x 8 f32 -> f32 none : " + words,
           "nn 8 x 8 x -8 f32 -> f32 none : " + words,
           "nn 8 8 8 f32 -> f32 none : " + words,
           "nn 8 x 8 x 8 f16 -> f32 none : " + words,
           "nn 8 x 8 x 8 f32 f32 none : " + words,
           "nn 8 x 8 x 8 f32 -> f32 gelu : " + words,
           "nn 8 x 8 x 8 f32 -> f32 : " + words,
           std::string("library 130100"),
           std::string("library x device NVIDIA H200"),
           std::string("library 130100 device "),
           section(kLibrary, kDevice),
       }) {
    const Result<GemmTable> table = GemmTable::parse(head + "\n" + line, kLibrary, kDevice);
    ASSERT_FALSE(table) << line;
    EXPECT_EQ(table.error().code, Code::data) << line;
    EXPECT_EQ(table.error().where, "line 3") << line;
  }
  // A row that belongs to nothing, and two rows for one product, of a section that is not ours too.
  EXPECT_FALSE(GemmTable::parse(row(kForward, kWords), kLibrary, kDevice));
  EXPECT_FALSE(GemmTable::parse(section(1, "other") + row(kForward, kWords) + row(kForward, kOther),
                                kLibrary, kDevice));
}

TEST(GemmTable, TheProgramsOwnRowsAreReadable) {
  const Result<GemmTable> table = GemmTable::parse(tuned_gemm_rows(), kLibrary, kDevice);
  ASSERT_TRUE(table) << table.error().text();
}

}  // namespace
}  // namespace elaswave::kernels
