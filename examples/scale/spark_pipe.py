"""spark-submit spark_pipe.py MODEL IN OUT: Spark answers the lines of IN (a path of HDFS, S3 ...), a partition at a time, each by one
run of `cambium generate --jsonl` on a node that has the program and the model."""
import os
import sys

from pyspark.sql import SparkSession

COMMAND = """sh -c 'f=$(mktemp -d) && cat > $f/in.jsonl && "{cambium}" generate "{model}" --jsonl $f/in.jsonl -o $f/out.jsonl -q >&2 &&
cat $f/out.jsonl; code=$?; rm -r "$f"; exit $code'"""


if __name__ == "__main__":
    model, source, output = sys.argv[1:4]
    spark = SparkSession.builder.appName("cambium").getOrCreate()
    lines = spark.sparkContext.textFile(source).filter(bool)
    command = COMMAND.replace("\n", " ").format(cambium=os.environ.get("CAMBIUM", "cambium"), model=model)
    lines.pipe(command, checkCode=True).saveAsTextFile(output)
